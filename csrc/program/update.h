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
  FM_DEVICE_KNOWN static void step(Team& team, const Call<Real>& call, int64_t k, const Real* phi,
                                   const Real* state, Real* phi_next, Real* state_next) {
    const Real momentum = Real(call.momentum);
    for_each_slot(call, k, [&](const Slot& slot, const Rate<Real>&, auto rate) {
      const Real* s = state ? state + slot.offset : nullptr;
      const Real* p = phi + slot.offset;
      Real *p_next = phi_next + slot.offset, *s_next = state_next + slot.offset;
      if (s) team.write(slot.size, s_next, [=](int64_t i) { return s_next[i] + momentum * s[i]; });
      team.write(slot.size, p_next, [=](int64_t i) { return p[i] - rate(i) * s_next[i]; });
    });
    team.sync();
  }

  // On return u is the adjoint of g, r that of s; rate gradients are added to `summed`.
  template <class Team, class Real>
  FM_DEVICE_KNOWN static void adjoint(Team& team, const Call<Real>& call, int64_t k,
                                      const Real* state_next, const Real* v, Real* r, Real* u,
                                      Real* summed) {
    const Real momentum = Real(call.momentum);
    for_each_slot(call, k, [&](const Slot& slot, const Rate<Real>& rates, auto rate) {
      const Real *v_at = v + slot.offset, *s_next = state_next + slot.offset;
      Real *u_at = u + slot.offset, *r_at = r ? r + slot.offset : nullptr;
      if (r_at) {
        team.write(slot.size, u_at, [=](int64_t i) { return r_at[i] - rate(i) * v_at[i]; });
        team.write(slot.size, r_at, [=](int64_t i) { return momentum * u_at[i]; });
      } else {
        team.write(slot.size, u_at, [=](int64_t i) { return -(rate(i) * v_at[i]); });
      }
      if (!call.keep_states || rates.grad < 0) return;
      Real* rate_grad = summed + rates.grad + rates.row_index(k) * rates.elements;
      if (rates.elements > 1) {
        team.write(slot.size, rate_grad,
                   [=](int64_t i) { return rate_grad[i] - v_at[i] * s_next[i]; });
      } else {
        team.template reduce<1>(
            Along::element, 1, slot.size,
            [=](int64_t, int64_t i) { return Terms<Real, 1>{{v_at[i] * s_next[i]}}; },
            [=](int64_t, const Terms<Real, 1>& sum) { *rate_grad -= sum.value[0]; });
      }
    });
    team.sync();
  }

 private:
  // visit(slot, rates, rate) for the adapted slots; rate(i) is that of element i in step k. Loops
  // over it are compiled once for a rate an element and once for one that all elements share.
  template <class Real, class Visit>
  FM_DEVICE_KNOWN static void for_each_slot(const Call<Real>& call, int64_t k, Visit visit) {
    FM_UNROLL(1)
    for (int32_t index = 0; index < call.program.slot_count; ++index) {
      const Slot& slot = call.program.slots[index];
      if (!slot.adapted) continue;
      const Rate<Real>& rates = call.rates[index];
      const Real* row = rates.row(k);
      if (rates.elements > 1) {
        visit(slot, rates, [row](int64_t i) { return row[i]; });
      } else {
        visit(slot, rates, [rate = *row](int64_t) { return rate; });
      }
    }
  }
};

}  // namespace fastmaml::FM_ISA
