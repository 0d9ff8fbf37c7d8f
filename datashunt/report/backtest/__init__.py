"""What a backtest came to, and what its calls bought: figures, series, picture, page. Imports report parts only."""
