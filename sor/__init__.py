"""Smart-order-routing backtest: what the pipeline's programs share (see docs/design.md)."""
