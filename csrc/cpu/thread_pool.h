// Threads that wait, parked, for work.
#pragma once

namespace fastmaml {

// Runs function(context, index) for index = 0..threads-1 and returns when all have returned. Index
// 0 runs on the caller; all run at the same time, so they may wait for each other.
//
// Callers never wait for each other: each takes threads that are idle, and the pool starts more
// where there are too few. It keeps them, parked, for later calls; so it holds as many threads as
// have ever been asked for at once. A function may itself call run_parallel. After fork, the child
// starts with an empty pool.
//
// While the caller waits for the others, having done its part, it calls poll(context) some 20
// times a second, unless `poll` is null.
//
// Neither may throw. Throws std::system_error, before anything has run, where the system
// refuses a thread; a caller who can also do with one thread should then run index 0 of 1 itself.
void run_parallel(int threads, void (*function)(void* context, int index), void* context,
                  void (*poll)(void* context) = nullptr);

// Wakes as many threads as the last run took, if they are idle, since one like it follows at once:
// to be woken takes a thread longer than a caller's preparations. They park again if none comes.
void rouse();

}  // namespace fastmaml
