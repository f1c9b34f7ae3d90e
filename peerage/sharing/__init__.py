"""How members learn from each other: `advice` (peer learning), `none`, fixed advisers and exchanges."""
