// NEON on AArch64: 32 registers of 128 bits.
#pragma once

#include <arm_neon.h>

#include "team.h"

namespace fastmaml::FM_ISA {

template <class Real>
struct Vec;

template <>
struct Vec<float> {
  static constexpr int width = 4;
  float32x4_t lanes;

  static FM_INLINE Vec zero() { return {vdupq_n_f32(0)}; }
  static FM_INLINE Vec broadcast(float x) { return {vdupq_n_f32(x)}; }
  static FM_INLINE Vec load(const float* p) { return {vld1q_f32(p)}; }
  static FM_INLINE Vec load(const float* p, int count) {
    float32x4_t lanes = vdupq_n_f32(0);
    if (count > 0) lanes = vld1q_lane_f32(p, lanes, 0);
    if (count > 1) lanes = vld1q_lane_f32(p + 1, lanes, 1);
    if (count > 2) lanes = vld1q_lane_f32(p + 2, lanes, 2);
    return {lanes};
  }
  FM_INLINE void store(float* p) const { vst1q_f32(p, lanes); }
  FM_INLINE void store(float* p, int count) const {
    if (count > 0) vst1q_lane_f32(p, lanes, 0);
    if (count > 1) vst1q_lane_f32(p + 1, lanes, 1);
    if (count > 2) vst1q_lane_f32(p + 2, lanes, 2);
  }
};

template <>
struct Vec<double> {
  static constexpr int width = 2;
  float64x2_t lanes;

  static FM_INLINE Vec zero() { return {vdupq_n_f64(0)}; }
  static FM_INLINE Vec broadcast(double x) { return {vdupq_n_f64(x)}; }
  static FM_INLINE Vec load(const double* p) { return {vld1q_f64(p)}; }
  static FM_INLINE Vec load(const double* p, int count) {
    float64x2_t lanes = vdupq_n_f64(0);
    if (count > 0) lanes = vld1q_lane_f64(p, lanes, 0);
    return {lanes};
  }
  FM_INLINE void store(double* p) const { vst1q_f64(p, lanes); }
  FM_INLINE void store(double* p, int count) const {
    if (count > 0) vst1q_lane_f64(p, lanes, 0);
  }
};

FM_INLINE Vec<float> add(Vec<float> a, Vec<float> b) { return {vaddq_f32(a.lanes, b.lanes)}; }
FM_INLINE Vec<float> mul(Vec<float> a, Vec<float> b) { return {vmulq_f32(a.lanes, b.lanes)}; }
FM_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {vfmaq_f32(c.lanes, a.lanes, b.lanes)};
}
FM_INLINE Vec<double> add(Vec<double> a, Vec<double> b) { return {vaddq_f64(a.lanes, b.lanes)}; }
FM_INLINE Vec<double> mul(Vec<double> a, Vec<double> b) { return {vmulq_f64(a.lanes, b.lanes)}; }
FM_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {vfmaq_f64(c.lanes, a.lanes, b.lanes)};
}

template <int d>
FM_INLINE Vec<float> swap(Vec<float> v) {
  if constexpr (d == 2) return {vextq_f32(v.lanes, v.lanes, 2)};
  if constexpr (d == 1) return {vrev64q_f32(v.lanes)};
}

template <int d>
FM_INLINE Vec<float> select(Vec<float> x, Vec<float> y) {
  constexpr uint32_t low = d == 1 ? ~0u : 0u;  // lane 1 has bit 1 set, lane 2 has bit 2
  constexpr uint32_t high = d == 2 ? ~0u : 0u;
  const uint32x4_t with_bit = {0u, low, high, ~0u};
  return {vbslq_f32(with_bit, y.lanes, x.lanes)};
}

template <int d>
FM_INLINE Vec<double> swap(Vec<double> v) {
  return {vextq_f64(v.lanes, v.lanes, 1)};
}

template <int d>
FM_INLINE Vec<double> select(Vec<double> x, Vec<double> y) {
  return {vcopyq_laneq_f64(x.lanes, 1, y.lanes, 1)};
}

// Tiles of the matrix product that fill the registers (gemm.h).
struct TileLimits {
  // Sums in registers, beside the vectors of b and one of a.
  static constexpr int outer_sums = 24, outer_vectors = 4, outer_vectors_of_few_rows = 6;
  static constexpr int dot_sums = 16, dot_columns = 4;
  static constexpr int lockstep_vectors = 4;
};

}  // namespace fastmaml::FM_ISA
