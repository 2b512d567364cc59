"""What to order, place, port and retire each quarter: a two-stage stochastic programme. Pure: arrays in, plan out."""
