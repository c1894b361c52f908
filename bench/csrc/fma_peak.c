// Prints how many fp32 FLOP/s this core reaches in independent chains of multiply-adds.
#include <stdio.h>
#include <time.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define CHAINS 10  // latency times the number of units, and they fit the registers
#define STEPS 100000

typedef float Vector __attribute__((vector_size(BYTES)));

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

int main(void) {
  Vector chain[CHAINS], factor, term;
  for (int i = 0; i < BYTES / 4; ++i) {
    factor[i] = 0.5f;
    term[i] = 1.0f;
    for (int c = 0; c < CHAINS; ++c) chain[c][i] = (float)c;
  }
  volatile float sink = 0;
  double best = 0;
  const double end = now() + 0.5;
  while (now() < end) {
    const double start = now();
    for (int step = 0; step < STEPS; ++step) {
#pragma GCC unroll 10
      for (int c = 0; c < CHAINS; ++c) chain[c] = chain[c] * factor + term;
    }
    for (int c = 0; c < CHAINS; ++c) sink += chain[c][0];
    const double rate = 2.0 * STEPS * CHAINS * (BYTES / 4) / (now() - start);
    if (rate > best) best = rate;
  }
  printf("%.0f\n", best);
  return 0;
}
