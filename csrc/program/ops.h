// The ops of a program as its passes go over them: read from the program's arrays; or known to the
// compiler, in a kernel that is compiled for one call (cuda/compiled.cuh). Such a kernel has code
// of its own for every op, with the sizes as constants.
#pragma once

#include "activation.h"
#include "add.h"
#include "dual.h"
#include "fold.h"
#include "gain.h"
#include "linear.h"
#include "norm.h"

namespace fastmaml::FM_ISA {

// RULE(kind, the struct that has the four functions of such an op)
#define FM_OPS(RULE)                      \
  RULE(linear, Linear)                    \
  RULE(batch_norm, BatchNorm)             \
  RULE(layer_norm, RowNorm<true>)         \
  RULE(rms_norm, RowNorm<false>)          \
  RULE(relu, Activation<Relu>)            \
  RULE(leaky_relu, Activation<LeakyRelu>) \
  RULE(elu, Activation<Elu>)              \
  RULE(tanh, Activation<Tanh>)            \
  RULE(sigmoid, Activation<Sigmoid>)      \
  RULE(gelu, Activation<Gelu>)            \
  RULE(gelu_tanh, Activation<GeluTanh>)   \
  RULE(silu, Activation<Silu>)            \
  RULE(softplus, Activation<Softplus>)    \
  RULE(sin, Activation<Sin>)              \
  RULE(dropout, Gain<DropoutFactor>)      \
  RULE(add, Add)                          \
  RULE(scale, Gain<ScaleFactor>)          \
  RULE(gram, Gram)                        \
  RULE(dual, Dual)                        \
  RULE(fold, Fold)                        \
  RULE(folded, Folded)

// A number or a kind that the compiler knows.
template <auto constant>
struct Known {
  FM_HD constexpr Known() {}
  template <class Given>
  FM_HD constexpr explicit Known(Given) {}
  FM_HD constexpr operator decltype(constant)() const { return constant; }
};

// Calls visit with the rule of an op's kind.
template <class Visitor>
FM_HD void with_rule(OpKind kind, Visitor visit) {
  switch (kind) {
#define FM_CASE(kind, Rule) \
  case OpKind::kind:        \
    return visit(Rule{});
    FM_OPS(FM_CASE)
#undef FM_CASE
  }
}

#ifndef FM_COMPILED

using SupportCount = int64_t;
using QueryCount = int64_t;
using OfSupport = Side;
using OfQuery = Side;

class Ops {
 public:
  FM_HD explicit Ops(const Program& program) : program_(program) {}

  FM_HD const Value& value(int32_t index) const { return program_.values[index]; }
  FM_HD const Slot* slots() const { return program_.slots; }

  // visit(op, kind) for each, the first one first, or the last.
  template <class Visit>
  FM_HD void forward(Visit visit) const {
    for (int32_t i = 0; i < program_.op_count; ++i) visit(program_.ops[i], program_.ops[i].kind);
  }
  template <class Visit>
  FM_HD void backward(Visit visit) const {
    for (int32_t i = program_.op_count - 1; i >= 0; --i) {
      visit(program_.ops[i], program_.ops[i].kind);
    }
  }

 private:
  const Program& program_;
};

FM_HD LossKind loss_of(const Program& program) { return program.loss; }

// The place whose ops a pass runs over.
template <Place place>
FM_HD Place the() {
  return place;
}

// Which values' cotangents are wanted (call.h).
template <class Real>
FM_HD const uint8_t* active_of(const Call<Real>& call) {
  return call.active;
}
template <class Real>
FM_HD const uint8_t* support_wanted_of(const Call<Real>& call) {
  return call.support.wanted;
}
template <class Real>
FM_HD const uint8_t* query_wanted_of(const Call<Real>& call) {
  return call.query.wanted;
}

#else

template <OpKind kind>
struct RuleOf;
#define FM_RULE(kind, Rule)     \
  template <>                   \
  struct RuleOf<OpKind::kind> { \
    using type = Rule;          \
  };
FM_OPS(FM_RULE)
#undef FM_RULE

template <OpKind kind, class Visitor>
FM_HD void with_rule(Known<kind>, Visitor visit) {
  visit(typename RuleOf<kind>::type{});
}

// Samples a task, where no task has fewer than others.
template <int64_t count>
struct CountOf {
  using type = Known<count>;
};
template <>
struct CountOf<known::varies> {
  using type = int64_t;
};
using SupportCount = CountOf<known::support_samples>::type;
using QueryCount = CountOf<known::query_samples>::type;
using OfSupport = Known<Side::support>;
using OfQuery = Known<Side::query>;

// 0, 1, ..., so many.
template <int... indices>
struct Indices {};
template <int count, int... indices>
struct IndicesTo : IndicesTo<count - 1, count - 1, indices...> {};
template <int... indices>
struct IndicesTo<0, indices...> {
  using type = Indices<indices...>;
};

class Ops {
 public:
  FM_HD explicit Ops(const Program&) {}

  FM_HD const Value& value(int32_t index) const { return known::values[index]; }
  FM_HD const Slot* slots() const { return known::slots; }

  template <class Visit>
  FM_HD void forward(Visit visit) const {
    visit_each<false>(visit, typename IndicesTo<count>::type{});
  }
  template <class Visit>
  FM_HD void backward(Visit visit) const {
    visit_each<true>(visit, typename IndicesTo<count>::type{});
  }

 private:
  static constexpr int count = known::op_count;

  template <bool is_backward, class Visit, int... indices>
  FM_HD static void visit_each(Visit visit, Indices<indices...>) {
    (visit_one<is_backward ? count - 1 - indices : indices>(visit), ...);
  }
  template <int index, class Visit>
  FM_HD static void visit_one(Visit visit) {
    visit(known::ops[index], Known<known::ops[index].kind>{});
  }
};

FM_HD Known<known::loss> loss_of(const Program&) { return {}; }

template <Place place>
FM_HD Known<place> the() {
  return {};
}

template <const auto& flags>
struct KnownFlags {
  FM_HD constexpr bool operator[](int32_t index) const { return flags[index]; }
};
template <class Real>
FM_HD KnownFlags<known::active> active_of(const Call<Real>&) {
  return {};
}
template <class Real>
FM_HD KnownFlags<known::support_wanted> support_wanted_of(const Call<Real>&) {
  return {};
}
template <class Real>
FM_HD KnownFlags<known::query_wanted> query_wanted_of(const Call<Real>&) {
  return {};
}

#endif

}  // namespace fastmaml::FM_ISA
