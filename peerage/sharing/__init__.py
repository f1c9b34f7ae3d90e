"""How members learn from each other: `advice` (peer learning), `none`; and who can advise: `advisers`."""
