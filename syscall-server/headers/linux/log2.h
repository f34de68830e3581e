#define ilog2(n) (63 - __builtin_clzll(n))
#define roundup_pow_of_two(n) ((n) < 2 ? 1UL : 2UL << ilog2((n) - 1))
#define is_power_of_2(n) ((n) != 0 && ((n) & ((n) - 1)) == 0)
