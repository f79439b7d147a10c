"""What memkit costs and what it keeps, beside other ways: `python -m benchmarks NAME`."""
