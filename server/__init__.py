"""HTTP and the dialogue pipeline: from a request of the game server to the NPC's answer."""
