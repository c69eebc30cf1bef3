/** What the game itself knows of Mulmaru: where players begin, and who wants what, found where. */

export const START = { location: 'ferry_landing', reputation: 'unknown' };

/** By NPC: the item that the quest asks for, and the place where it lies once the quest is on. */
export const QUESTS = {
  sora: { wants: 'lamp_wick', foundAt: 'harbor_market' },
  okbun: { wants: 'sluice_key', foundAt: 'salt_fields' },
  wren: { wants: 'ledger_page', foundAt: 'harbor_market' },
  haebong: { wants: 'mooring_rope', foundAt: 'shipyard' },
  dal: { wants: 'red_kite', foundAt: 'lighthouse' },
  myeongun: { wants: 'customs_seal', foundAt: 'harbor_market' },
  mugyeong: { wants: 'bronze_mirror', foundAt: 'harbor_market' },
  edda: { wants: 'caulking_mallet', foundAt: 'ferry_landing' },
};
