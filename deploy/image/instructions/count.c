/* A QEMU plugin that counts instructions: prints how many the program has executed so far whenever
 * it calls sched_yield, which is how work.py marks its steps.
 *
 * Debian ships no header of QEMU's plugins; these are the declarations of version 1 that it needs.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
typedef void on_block(plugin_id, struct qemu_plugin_tb *);
typedef void on_syscall(plugin_id, unsigned vcpu, int64_t number, uint64_t, uint64_t, uint64_t,
                        uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_block *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation,
                                                     void *counter, uint64_t step);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_syscall *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

enum { ADD_U64 = 0, SCHED_YIELD = 124 }; /* the latter on aarch64 */

int qemu_plugin_version = 1;

static uint64_t num_instructions;

static void count_block(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &num_instructions,
                                             qemu_plugin_tb_n_insns(block));
}

static void tell(plugin_id id, unsigned vcpu, int64_t number, uint64_t a, uint64_t b, uint64_t c,
                 uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    (void)id, (void)vcpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number == SCHED_YIELD)
        fprintf(stderr, "instructions: %" PRIu64 "\n", num_instructions);
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, count_block);
    qemu_plugin_register_vcpu_syscall_cb(id, tell);
    return 0;
}
