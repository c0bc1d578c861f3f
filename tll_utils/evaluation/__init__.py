"""How good scores are: metrics of S, intervals and tests, cross-validation; arrays in, arrays out."""
