"""Offline data: recorded episodes, and the batches that offline learners draw from them."""
