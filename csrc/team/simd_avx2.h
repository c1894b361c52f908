// AVX2 with FMA: 16 registers of 256 bits.
#pragma once

#include <immintrin.h>

#include "team.h"

namespace fastmaml::FM_ISA {

template <class Real>
struct Vec;

// Reading `width` integers from first_lanes<...> + width - count gives a mask of `count` lanes.
inline constexpr int32_t float_masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
inline constexpr int64_t double_masks[8] = {-1, -1, -1, -1, 0, 0, 0, 0};

template <>
struct Vec<float> {
  static constexpr int width = 8;
  __m256 lanes;

  static FM_INLINE __m256i first(int count) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(float_masks + width - count));
  }
  static FM_INLINE Vec zero() { return {_mm256_setzero_ps()}; }
  static FM_INLINE Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static FM_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static FM_INLINE Vec load(const float* p, int count) {
    return {_mm256_maskload_ps(p, first(count))};
  }
  FM_INLINE void store(float* p) const { _mm256_storeu_ps(p, lanes); }
  FM_INLINE void store(float* p, int count) const { _mm256_maskstore_ps(p, first(count), lanes); }
};

template <>
struct Vec<double> {
  static constexpr int width = 4;
  __m256d lanes;

  static FM_INLINE __m256i first(int count) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(double_masks + width - count));
  }
  static FM_INLINE Vec zero() { return {_mm256_setzero_pd()}; }
  static FM_INLINE Vec broadcast(double x) { return {_mm256_set1_pd(x)}; }
  static FM_INLINE Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
  static FM_INLINE Vec load(const double* p, int count) {
    return {_mm256_maskload_pd(p, first(count))};
  }
  FM_INLINE void store(double* p) const { _mm256_storeu_pd(p, lanes); }
  FM_INLINE void store(double* p, int count) const { _mm256_maskstore_pd(p, first(count), lanes); }
};

FM_INLINE Vec<float> add(Vec<float> a, Vec<float> b) { return {_mm256_add_ps(a.lanes, b.lanes)}; }
FM_INLINE Vec<float> mul(Vec<float> a, Vec<float> b) { return {_mm256_mul_ps(a.lanes, b.lanes)}; }
FM_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm256_fmadd_ps(a.lanes, b.lanes, c.lanes)};
}
FM_INLINE Vec<double> add(Vec<double> a, Vec<double> b) {
  return {_mm256_add_pd(a.lanes, b.lanes)};
}
FM_INLINE Vec<double> mul(Vec<double> a, Vec<double> b) {
  return {_mm256_mul_pd(a.lanes, b.lanes)};
}
FM_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {_mm256_fmadd_pd(a.lanes, b.lanes, c.lanes)};
}

template <int d>
FM_INLINE Vec<float> swap(Vec<float> v) {
  if constexpr (d == 4) return {_mm256_permute2f128_ps(v.lanes, v.lanes, 0x01)};
  if constexpr (d == 2) return {_mm256_permute_ps(v.lanes, 0x4E)};
  if constexpr (d == 1) return {_mm256_permute_ps(v.lanes, 0xB1)};
}

template <int d>
FM_INLINE Vec<float> select(Vec<float> x, Vec<float> y) {
  constexpr int with_bit = d == 4 ? 0xF0 : d == 2 ? 0xCC : 0xAA;
  return {_mm256_blend_ps(x.lanes, y.lanes, with_bit)};
}

template <int d>
FM_INLINE Vec<double> swap(Vec<double> v) {
  if constexpr (d == 2) return {_mm256_permute2f128_pd(v.lanes, v.lanes, 0x01)};
  if constexpr (d == 1) return {_mm256_permute_pd(v.lanes, 0x5)};
}

template <int d>
FM_INLINE Vec<double> select(Vec<double> x, Vec<double> y) {
  constexpr int with_bit = d == 2 ? 0xC : 0xA;
  return {_mm256_blend_pd(x.lanes, y.lanes, with_bit)};
}

// Tiles of the matrix product that fill the registers (gemm.h).
struct TileLimits {
  // Sums in registers, beside the vectors of b and one of a.
  static constexpr int outer_sums = 12, outer_vectors = 2, outer_vectors_of_few_rows = 5;
  static constexpr int dot_sums = 12, dot_columns = 4;
  static constexpr int lockstep_vectors = 3;
};

}  // namespace fastmaml::FM_ISA
