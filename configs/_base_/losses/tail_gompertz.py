# T(f) = 1 - a exp(-b exp(-c f)), with the parameters that the EQL paper found best.
tail_weighting = dict(type="GompertzDecayTail", a=1, b=80, c=3000)
