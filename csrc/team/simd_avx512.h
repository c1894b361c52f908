// AVX-512: 32 registers of 512 bits, and a mask for any number of lanes.
#pragma once

#include <immintrin.h>

#include "team.h"

namespace fastmaml::FM_ISA {

template <class Real>
struct Vec;

template <>
struct Vec<float> {
  static constexpr int width = 16;
  __m512 lanes;

  static FM_INLINE __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1); }
  static FM_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
  static FM_INLINE Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static FM_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static FM_INLINE Vec load(const float* p, int count) {
    return {_mm512_maskz_loadu_ps(first(count), p)};
  }
  FM_INLINE void store(float* p) const { _mm512_storeu_ps(p, lanes); }
  FM_INLINE void store(float* p, int count) const { _mm512_mask_storeu_ps(p, first(count), lanes); }
};

template <>
struct Vec<double> {
  static constexpr int width = 8;
  __m512d lanes;

  static FM_INLINE __mmask8 first(int count) { return static_cast<__mmask8>((1u << count) - 1); }
  static FM_INLINE Vec zero() { return {_mm512_setzero_pd()}; }
  static FM_INLINE Vec broadcast(double x) { return {_mm512_set1_pd(x)}; }
  static FM_INLINE Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
  static FM_INLINE Vec load(const double* p, int count) {
    return {_mm512_maskz_loadu_pd(first(count), p)};
  }
  FM_INLINE void store(double* p) const { _mm512_storeu_pd(p, lanes); }
  FM_INLINE void store(double* p, int count) const {
    _mm512_mask_storeu_pd(p, first(count), lanes);
  }
};

FM_INLINE Vec<float> add(Vec<float> a, Vec<float> b) { return {_mm512_add_ps(a.lanes, b.lanes)}; }
FM_INLINE Vec<float> mul(Vec<float> a, Vec<float> b) { return {_mm512_mul_ps(a.lanes, b.lanes)}; }
FM_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm512_fmadd_ps(a.lanes, b.lanes, c.lanes)};
}
FM_INLINE Vec<double> add(Vec<double> a, Vec<double> b) {
  return {_mm512_add_pd(a.lanes, b.lanes)};
}
FM_INLINE Vec<double> mul(Vec<double> a, Vec<double> b) {
  return {_mm512_mul_pd(a.lanes, b.lanes)};
}
FM_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {_mm512_fmadd_pd(a.lanes, b.lanes, c.lanes)};
}

template <int d>
FM_INLINE Vec<float> swap(Vec<float> v) {
  if constexpr (d == 8) return {_mm512_shuffle_f32x4(v.lanes, v.lanes, 0x4E)};
  if constexpr (d == 4) return {_mm512_shuffle_f32x4(v.lanes, v.lanes, 0xB1)};
  if constexpr (d == 2) return {_mm512_permute_ps(v.lanes, 0x4E)};
  if constexpr (d == 1) return {_mm512_permute_ps(v.lanes, 0xB1)};
}

template <int d>
FM_INLINE Vec<float> select(Vec<float> x, Vec<float> y) {
  constexpr __mmask16 with_bit = d == 8 ? 0xFF00 : d == 4 ? 0xF0F0 : d == 2 ? 0xCCCC : 0xAAAA;
  return {_mm512_mask_blend_ps(with_bit, x.lanes, y.lanes)};
}

template <int d>
FM_INLINE Vec<double> swap(Vec<double> v) {
  if constexpr (d == 4) return {_mm512_shuffle_f64x2(v.lanes, v.lanes, 0x4E)};
  if constexpr (d == 2) return {_mm512_shuffle_f64x2(v.lanes, v.lanes, 0xB1)};
  if constexpr (d == 1) return {_mm512_permute_pd(v.lanes, 0x55)};
}

template <int d>
FM_INLINE Vec<double> select(Vec<double> x, Vec<double> y) {
  constexpr __mmask8 with_bit = d == 4 ? 0xF0 : d == 2 ? 0xCC : 0xAA;
  return {_mm512_mask_blend_pd(with_bit, x.lanes, y.lanes)};
}

// Tiles of the matrix product that fill the registers (gemm.h).
struct TileLimits {
  // Sums in registers, beside the vectors of b and one of a.
  static constexpr int outer_sums = 24, outer_vectors = 4, outer_vectors_of_few_rows = 6;
  static constexpr int dot_sums = 25, dot_columns = 5;
  static constexpr int lockstep_vectors = 4;
};

}  // namespace fastmaml::FM_ISA
