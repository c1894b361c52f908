// The inner optimiser: SGD with momentum, and its adjoint. A step maps phi, s and the gradient g:
//
//   s' = momentum s + g        phi' = phi - rate (.) s'
//
// and its adjoint maps v, r (the adjoints of phi', s') to u, the adjoint of g, and those of phi
// and s, as far as they do not pass through g:
//
//   u = r - rate (.) v         v stays         r = momentum u         rate_bar = -v (.) s'
#pragma once

#include "call.h"

namespace fastmaml::FM_ISA {

struct Sgd {
  // On entry state_next holds g; on return s'. `state` is s, null where it is zero.
  template <class Team, class Real>
  static void step(Team& team, const Call<Real>& call, int64_t k, const Real* phi,
                   const Real* state, Real* phi_next, Real* state_next) {
    const Real momentum = Real(call.momentum);
    for (int32_t slot = 0; slot < call.program.slot_count; ++slot) {
      const Slot& s = call.program.slots[slot];
      if (!s.adapted) continue;
      const Real* rate = row(call.rates[slot], k);
      const int64_t stride = call.rates[slot].elements > 1;
      const int64_t offset = s.offset;
      team.each(s.size, [=](int64_t i) {
        const int64_t j = offset + i;
        if (state) state_next[j] += momentum * state[j];
        phi_next[j] = phi[j] - rate[stride * i] * state_next[j];
      });
    }
    team.sync();
  }

  // On return u is the adjoint of g, r that of s; rate gradients are added to `summed`.
  template <class Team, class Real>
  static void adjoint(Team& team, const Call<Real>& call, int64_t k, const Real* state_next,
                      const Real* v, Real* r, Real* u, Real* summed) {
    const Real momentum = Real(call.momentum);
    for (int32_t slot = 0; slot < call.program.slot_count; ++slot) {
      const Slot& s = call.program.slots[slot];
      if (!s.adapted) continue;
      const Rate<Real>& rates = call.rates[slot];
      const Real* rate = row(rates, k);
      const int64_t stride = rates.elements > 1;
      const int64_t offset = s.offset;
      team.each(s.size, [=](int64_t i) {
        const int64_t j = offset + i;
        u[j] = (r ? r[j] : Real(0)) - rate[stride * i] * v[j];
        if (r) r[j] = momentum * u[j];
      });
      if (rates.grad < 0) continue;
      Real* rate_grad = summed + rates.grad + row_index(rates, k) * rates.elements;
      if (rates.elements > 1) {
        team.each(s.size,
                  [=](int64_t i) { rate_grad[i] -= v[offset + i] * state_next[offset + i]; });
      } else {
        team.template reduce<1>(
            Along::element, 1, s.size,
            [=](int64_t, int64_t i) {
              return Terms<Real, 1>{{v[offset + i] * state_next[offset + i]}};
            },
            [=](int64_t, const Terms<Real, 1>& sum) { *rate_grad -= sum.value[0]; });
      }
    }
    team.sync();
  }

 private:
  template <class Real>
  FM_HD static int64_t row_index(const Rate<Real>& rate, int64_t k) {
    return k < rate.rows ? k : rate.rows - 1;
  }
  template <class Real>
  FM_HD static const Real* row(const Rate<Real>& rate, int64_t k) {
    return rate.data + row_index(rate, k) * rate.elements;
  }
};

}  // namespace fastmaml::FM_ISA
