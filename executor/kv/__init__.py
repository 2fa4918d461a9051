"""Where keys and values live: the layout of blocks, the arena, who has which block, and copies."""
