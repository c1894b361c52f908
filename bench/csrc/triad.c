// Prints how many bytes a second all the given cores together move in a[i] = b[i] + x * c[i], as
// STREAM counts them (McCalpin 1995): three numbers an element, what is fetched in order to be
// written not among them. Arguments: the numbers of the cores.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ELEMENTS (16l << 20)  // 64 MiB an array: far more than the caches hold
#define REPEATS 40

typedef struct {
  int core;
  double rate;  // of all cores, as this one saw it
} Lane;

static pthread_barrier_t barrier;
static int lanes;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

static void triad(float* restrict a, const float* restrict b, const float* restrict c, float x) {
  for (long i = 0; i < ELEMENTS; ++i) a[i] = b[i] + x * c[i];
}

static void* run(void* argument) {
  Lane* lane = argument;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(lane->core, &cores);
  sched_setaffinity(0, sizeof cores, &cores);
  float* a = malloc(3 * ELEMENTS * sizeof(float));
  if (a == NULL) exit(1);
  for (long i = 0; i < 3 * ELEMENTS; ++i) a[i] = (float)(i % 7);  // near the core that uses it
  for (int repeat = 0; repeat < REPEATS; ++repeat) {
    pthread_barrier_wait(&barrier);
    const double start = now();
    triad(a, a + ELEMENTS, a + 2 * ELEMENTS, 0.5f);
    pthread_barrier_wait(&barrier);  // the slowest core ends the time of all
    const double rate = 3.0 * ELEMENTS * sizeof(float) * lanes / (now() - start);
    if (rate > lane->rate) lane->rate = rate;
  }
  volatile float sink = a[ELEMENTS / 2];
  (void)sink;
  free(a);
  return NULL;
}

int main(int argc, char** argv) {
  lanes = argc - 1;
  if (lanes < 1) return 1;
  Lane* lane = calloc(lanes, sizeof(Lane));
  pthread_t* thread = calloc(lanes, sizeof(pthread_t));
  pthread_barrier_init(&barrier, NULL, lanes);
  for (int i = 0; i < lanes; ++i) {
    lane[i].core = atoi(argv[i + 1]);
    if (pthread_create(&thread[i], NULL, run, &lane[i])) return 1;
  }
  for (int i = 0; i < lanes; ++i) pthread_join(thread[i], NULL);
  printf("%.0f\n", lane[0].rate);
  return 0;
}
