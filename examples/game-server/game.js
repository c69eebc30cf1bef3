/** Players and where they are: what a player does apart from talking. */

import { QUESTS, START } from './world.js';

/** Something the player cannot do; `code` is stable. */
export class GameError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** @param {unknown} playerId */
export function checkPlayerId(playerId) {
  if (typeof playerId !== 'string' || !/^[\w-]{1,64}$/.test(playerId)) {
    throw new GameError('bad_player_id', 'a player_id has 1 to 64 letters, digits, _ or -');
  }
}

export class Game {
  /** @param {import('./store.js').Store} store */
  constructor(store) {
    this.store = store;
  }

  /**
   * Keep what `GET /npcs` says as `npc_config`.
   * @param {import('./types.d.ts').NpcEntry[]} npcs
   */
  async learnNpcs(npcs) {
    await this.store.withTransaction(async (tx) => {
      for (const { npc_id, name, lang, stages, locations, initial_state } of npcs) {
        const config = { name, lang, stages, locations, initial_state };
        await tx
          .collection('npc_config')
          .updateOne({ _id: npc_id }, { $set: config }, { upsert: true });
      }
    });
  }

  /** Whether there is anybody to talk to. */
  async hasNpcs() {
    return (await this.#npcs()).length > 0;
  }

  /**
   * Everything the game knows of a player, who is made if new.
   * @param {string} playerId
   */
  async status(playerId) {
    await this.#join(playerId);
    const [player, game] = await this.playerAndGame(playerId);
    const npcs = (await this.#npcs()).map((npc) => ({
      npc_id: npc._id,
      name: npc.name,
      is_here: npc.locations.includes(player.location),
    }));
    return { player, game, npcs, items_here: itemsHere(player, game) };
  }

  /** @param {string} playerId */
  async playerAndGame(playerId) {
    return Promise.all([
      this.store.collection('player_status').findOne({ _id: playerId }),
      this.store.collection('game_state').findOne({ _id: playerId }),
    ]);
  }

  /**
   * @param {string} playerId
   * @param {unknown} location
   */
  async go(playerId, location) {
    const places = [...new Set((await this.#npcs()).flatMap((npc) => npc.locations))];
    if (typeof location !== 'string' || !places.includes(location)) {
      throw new GameError('no_such_place', `no place ${location}; there are ${places.join(', ')}`);
    }
    await this.store
      .collection('player_status')
      .updateOne({ _id: playerId }, { $set: { location } });
  }

  /**
   * @param {string} playerId
   * @param {unknown} item
   */
  async take(playerId, item) {
    const [player, game] = await this.playerAndGame(playerId);
    const here = itemsHere(player, game);
    if (typeof item !== 'string' || !here.includes(item)) {
      const found = here.join(', ') || 'nothing';
      throw new GameError('no_such_item', `no ${item} to take at ${player.location}: ${found}`);
    }
    await this.store
      .collection('player_status')
      .updateOne({ _id: playerId }, { $addToSet: { items: item } });
  }

  /**
   * The NPC, if it is where the player is.
   * @param {unknown} npcId
   * @param {{ location: string }} player
   */
  async npcNear(npcId, player) {
    const npc = await this.store.collection('npc_config').findOne({ _id: npcId });
    if (!npc) {
      const ids = (await this.#npcs()).map(({ _id }) => _id);
      throw new GameError('unknown_npc', `no NPC ${npcId}; there are ${ids.join(', ')}`);
    }
    if (!npc.locations.includes(player.location)) {
      const places = npc.locations.join(' or ');
      throw new GameError('not_here', `${npcId} is not at ${player.location}; go to ${places}`);
    }
    return npc;
  }

  async #join(playerId) {
    checkPlayerId(playerId);
    await this.store.withTransaction(async (tx) => {
      const players = tx.collection('player_status');
      const npcs = await tx.collection('npc_config').find().toArray();
      const player = await players.findOne({ _id: playerId });
      if (!player) {
        await players.insertOne({ _id: playerId, ...START, items: [], npcs: {} });
        await tx.collection('game_state').insertOne({ _id: playerId, quests: {} });
      }
      for (const npc of npcs.filter(({ _id }) => !player?.npcs[_id])) {
        await players.updateOne(
          { _id: playerId },
          { $set: { [`npcs.${npc._id}`]: npc.initial_state } },
        );
        await tx
          .collection('game_state')
          .updateOne({ _id: playerId }, { $set: { [`quests.${npc._id}`]: npc.stages[0] } });
      }
    });
  }

  #npcs() {
    return this.store.collection('npc_config').find().toArray();
  }
}

/** Items of quests that are on, lying where the player is. */
function itemsHere(player, game) {
  return Object.entries(QUESTS)
    .filter(([npcId, quest]) => quest.foundAt === player.location && isOn(game, npcId))
    .map(([, quest]) => quest.wants)
    .filter((item) => !player.items.includes(item));
}

function isOn(game, npcId) {
  return game.quests[npcId] === 'in_progress';
}
