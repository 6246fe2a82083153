"""Networks that compute at the precision of int8 while they are trained."""
