// The Team concept: the lanes that run one task together.
//
// A program (csrc/program) is written once over a Team and knows nothing else of the machine.
// Every lane calls every primitive with the same arguments; the Team splits the work. No
// primitive synchronises by itself: `sync` stands between a write and a read by other lanes.
// Every element is computed by the same operations in the same order for any number of lanes of
// processor cores, so results are bitwise the same for any such team.
//
// A Team of processor cores may run several tasks in lockstep, one in each lane of its vectors. An
// element of anything that a task has is then as many numbers, one a task, which lie together: a
// row of f features is one of f * tasks() numbers, and what works on numbers one by one, or on
// columns, never knows. What does know: products, losses, and what comes in and goes out.
//
//   int  tasks() const;              // in lockstep; 1 <= tasks() <= most_tasks
//   static constexpr int most_tasks;
//
//   int  rank() const;   // this lane, 0 <= rank < size
//   int  size() const;
//   void sync();         // all lanes arrive before any leaves; earlier writes become visible
//   bool stopped();      // whether to leave the task unfinished; all lanes get one answer
//
//   // c = init + alpha * (a b + a_more b_more), with a [m, k], b [k, n], c [m, n]; init.data null
//   // means zero; init may be c itself (accumulate), or a row with row_stride 0 (bias); a_more and
//   // b_more lie as a and b do, and are null where there is one product alone. Sizes and strides
//   // count elements
//   void gemm(int64_t m, int64_t n, int64_t k, Real alpha, View<const Real> a,
//             View<const Real> b, View<const Real> init, View<Real> c,
//             const Real* a_more = nullptr, const Real* b_more = nullptr);
//
//   // Will be read before long: products may fetch it from memory while they compute.
//   void fetch_ahead(const Real* from, int64_t count);
//
//   void each(int64_t count, F f);        // f(i) for all i < count; vectorised: f must be pure
//                                         // arithmetic on element i, with no aliasing between i
//   void write(int64_t count, Real* to, F value);  // to[i] = value(i), which may read to[i], and
//                                                  // no other element of it
//   void rows(int64_t count, F f);        // f(i), one lane each: coarse, any code
//
//   void map(Along along, int64_t groups, int64_t count, F f);  // each, over pairs: f(g, e)
//
//   static constexpr int samples_a_lane;        // that a loss takes at a time in one lane
//
//   double total(int64_t count, F f);           // the sum of f(i), to all lanes; others' earlier
//                                               // writes must be visible
//
//   // For each group g < groups: sums of the N terms that f(g, e) returns over e < count, then
//   // sink(g, sums), called once. `along` says which index is contiguous in memory.
//   void reduce<N>(Along along, int64_t groups, int64_t count, F f, S sink);
#pragma once

#include <cstdint>

// Small functions: on the device too, and never out of line, where the linker could share them
// between instruction sets.
#ifdef __CUDACC__
#define FM_HD __host__ __device__ __forceinline__
#else
#define FM_HD inline __attribute__((always_inline))
#endif

// Other functions that the device runs too; those that are compiled once for it, not wherever they
// are called; and those that are compiled once, except where what they ask is known
// (cuda/compiled.cuh).
#ifdef __CUDACC__
#define FM_DEVICE __host__ __device__
#define FM_DEVICE_ONCE __host__ __device__ __noinline__
#else
#define FM_DEVICE
#define FM_DEVICE_ONCE
#endif
#ifdef FM_COMPILED
#define FM_DEVICE_KNOWN FM_HD
#else
#define FM_DEVICE_KNOWN FM_DEVICE_ONCE
#endif

// How often the device's compiler unrolls the loop that follows.
#ifdef __CUDACC__
#define FM_PRAGMA(text) _Pragma(#text)
#define FM_UNROLL(count) FM_PRAGMA(unroll count)
#else
#define FM_UNROLL(count)
#endif

// Before a loop of a known number of turns that should become vector code, and not be unrolled.
#ifdef __CUDACC__
#define FM_VECTOR_LOOP
#else
#define FM_VECTOR_LOOP _Pragma("GCC unroll 1") _Pragma("GCC ivdep")
#endif

// Each instruction set compiles its own copy of everything below, in its own namespace, so that
// the linker never hands code with wide instructions to an older processor.
#ifndef FM_ISA
#define FM_ISA portable
#endif

namespace fastmaml::FM_ISA {

// A matrix anywhere in memory: element (i, j) is data[i * row_stride + j * col_stride].
template <class Real>
struct View {
  Real* data;
  int64_t row_stride;
  int64_t col_stride;
};

// Which index of a reduction runs along memory: the groups' (columns) or the elements' (rows).
enum class Along { group, element };

// The terms of up to N sums that are built in one pass.
template <class Real, int N>
struct Terms {
  Real value[N];
};

}  // namespace fastmaml::FM_ISA
