// Vec<float> and Vec<double>: the vector registers of one instruction set.
//
// The file for an instruction set gives, for each of the two,
//   width                          how many numbers a register holds
//   load, store                    unaligned; with a count, only the first `count` < width numbers
//                                  are touched, and the rest of a loaded register is zero
//   zero, broadcast, add, mul
//   fma(a, b, c)                   a b + c, fused wherever the instruction set can
//   swap<d>(v)                     lane l of the result is lane l ^ d of v
//   select<d>(x, y)                lane l is y's where l has bit d set, and x's elsewhere
// All else is written here, once.
#pragma once

#include <cstdint>

#include "team.h"

#define FM_ALWAYS_INLINE __attribute__((always_inline))
#define FM_INLINE FM_ALWAYS_INLINE inline
#define FM_FLATTEN __attribute__((flatten))

#if defined(FM_SIMD_AVX512)
#include "simd_avx512.h"
#elif defined(FM_SIMD_AVX2)
#include "simd_avx2.h"
#elif defined(FM_SIMD_NEON)
#include "simd_neon.h"
#else
#include "simd_portable.h"
#endif

namespace fastmaml::FM_ISA {

// a b + c of single numbers, rounded as a lane of Vec's fma is. Code is compiled without
// contraction, so that a number is fused where this is called and nowhere else.
template <class Real>
FM_INLINE Real multiply_add(Real a, Real b, Real c) {
#if defined(FM_SIMD_AVX512) || defined(FM_SIMD_AVX2) || defined(FM_SIMD_NEON)
  if constexpr (sizeof(Real) == sizeof(float)) {
    return __builtin_fmaf(a, b, c);
  } else {
    return __builtin_fma(a, b, c);
  }
#else
  return a * b + c;
#endif
}

// Adds the two halves of each block of 2d lanes: of x in the lanes without bit d, of y in those
// with it. With x and y the same vector, this is one step of summing its lanes.
template <int d, class V>
FM_INLINE V merge(V x, V y) {
  return add(select<d>(x, y), swap<d>(select<d>(y, x)));
}

// Sums the lanes of `count` vectors at once, pairing lanes at distances width / 2, ..., 2, 1:
// while vectors are left to pair, two of them share each addition. Where a sum ends up is told
// by `sum_place`; the order of additions within a sum is the same for any count.
template <int d, int count, class V>
FM_INLINE void sum_lanes(V* vectors) {
  if constexpr (d > 0) {
    constexpr int half = (count + 1) / 2;
#pragma GCC unroll 32
    for (int i = 0; i < half; ++i) {
      vectors[i] = merge<d>(vectors[i], vectors[i + half < count ? i + half : i]);
    }
    sum_lanes<d / 2, half>(vectors);
  }
}

// The index, in the vectors that `sum_lanes` leaves, at which vector i's sum stands.
constexpr int sum_place(int width, int count, int i) {
  int lane = 0;
  for (int d = width / 2; d > 0; d /= 2) {
    const int half = (count + 1) / 2;
    if (i >= half) {
      i -= half;
      lane += d;
    }
    count = half;
  }
  return i * width + lane;
}

// sums[i] = the sum of the lanes of vectors[i], which are used up.
template <int count, class Real>
FM_INLINE void sum_each(Vec<Real>* vectors, Real* sums) {
  constexpr int width = Vec<Real>::width;
  sum_lanes<width / 2, count>(vectors);
  constexpr int left = (count + width - 1) / width;
  Real lanes[left * width];
#pragma GCC unroll 32
  for (int i = 0; i < left; ++i) vectors[i].store(lanes + i * width);
  // Through memory: gcc 12 picks the wrong lane where it makes one shuffle of all that follows.
  asm volatile("" : "+m"(lanes));
#pragma GCC unroll 32
  for (int i = 0; i < count; ++i) sums[i] = lanes[sum_place(width, count, i)];
}

// Turns a square of `width` vectors around: lane i of vector j becomes lane j of vector i. Halves,
// quarters and so on down to single lanes change places across the diagonal.
template <int d, class V>
FM_INLINE void transpose(V* square) {
  if constexpr (d > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < V::width; ++i) {
      if ((i & d) == 0) {
        const V x = square[i], y = square[i + d];
        square[i] = select<d>(x, swap<d>(y));
        square[i + d] = select<d>(swap<d>(x), y);
      }
    }
    transpose<d / 2>(square);
  }
}

template <class Real>
FM_INLINE Real sum(Vec<Real> v) {
  Real result;
  sum_each<1>(&v, &result);
  return result;
}

}  // namespace fastmaml::FM_ISA
