# T(f) = 1 - (a f)^n, with the parameters that the EQL paper found best.
tail_weighting = dict(type="ExponentialDecayTail", a=400, n=2)
