// The checks of the C++ tests. A failed check prints where and what; the test then returns 1.
#pragma once

#include <atomic>
#include <cstdio>

inline std::atomic<int> failed_checks{0};

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      ++failed_checks;                                                             \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                              \
  } while (false)
