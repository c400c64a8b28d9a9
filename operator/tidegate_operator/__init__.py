"""Tidegate's operator: compiles RateLimitTier objects into every region's Redis; meets the API only in `tidegate.contract`."""
