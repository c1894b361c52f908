// Portable: vectors of 128 bits in the compiler's own terms, which every processor has in some
// form.
#pragma once

#include "team.h"

namespace fastmaml::FM_ISA {

template <class Real>
struct Vec {
  static constexpr int width = 16 / sizeof(Real);
  typedef Real Lanes __attribute__((vector_size(16)));
  Lanes lanes;

  static FM_INLINE Vec zero() { return broadcast(0); }
  static FM_INLINE Vec broadcast(Real x) {
    if constexpr (width == 4) {
      return {Lanes{x, x, x, x}};
    } else {
      return {Lanes{x, x}};
    }
  }
  static FM_INLINE Vec load(const Real* p) {
    Vec v;
    __builtin_memcpy(&v.lanes, p, sizeof(Lanes));
    return v;
  }
  static FM_INLINE Vec load(const Real* p, int count) {
    Vec v;
    for (int l = 0; l < width; ++l) v.lanes[l] = l < count ? p[l] : Real(0);
    return v;
  }
  FM_INLINE void store(Real* p) const { __builtin_memcpy(p, &lanes, sizeof(Lanes)); }
  FM_INLINE void store(Real* p, int count) const {
    for (int l = 0; l < width; ++l) {
      if (l < count) p[l] = lanes[l];
    }
  }
};

template <class Real>
FM_INLINE Vec<Real> add(Vec<Real> a, Vec<Real> b) {
  return {a.lanes + b.lanes};
}

template <class Real>
FM_INLINE Vec<Real> mul(Vec<Real> a, Vec<Real> b) {
  return {a.lanes * b.lanes};
}

template <class Real>
FM_INLINE Vec<Real> fma(Vec<Real> a, Vec<Real> b, Vec<Real> c) {
  return {a.lanes * b.lanes + c.lanes};
}

template <int d, class Real>
FM_INLINE Vec<Real> swap(Vec<Real> v) {
  if constexpr (v.width == 2) {
    return {__builtin_shufflevector(v.lanes, v.lanes, 1, 0)};
  } else if constexpr (d == 2) {
    return {__builtin_shufflevector(v.lanes, v.lanes, 2, 3, 0, 1)};
  } else {
    return {__builtin_shufflevector(v.lanes, v.lanes, 1, 0, 3, 2)};
  }
}

template <int d, class Real>
FM_INLINE Vec<Real> select(Vec<Real> x, Vec<Real> y) {
  if constexpr (x.width == 2) {
    return {__builtin_shufflevector(x.lanes, y.lanes, 0, 3)};
  } else if constexpr (d == 2) {
    return {__builtin_shufflevector(x.lanes, y.lanes, 0, 1, 6, 7)};
  } else {
    return {__builtin_shufflevector(x.lanes, y.lanes, 0, 5, 2, 7)};
  }
}

// Tiles of the matrix product that fill 16 registers (gemm.h).
struct TileLimits {
  // Sums in registers, beside the vectors of b and one of a.
  static constexpr int outer_sums = 12, outer_vectors = 2, outer_vectors_of_few_rows = 5;
  static constexpr int dot_sums = 12, dot_columns = 4;
  static constexpr int lockstep_vectors = 3;
};

}  // namespace fastmaml::FM_ISA
