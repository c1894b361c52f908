// Chooses the kernels of one instruction set.
#include "cpu_features.h"
#include "kernels.h"

namespace fastmaml {

#define FM_DECLARE(name)                       \
  namespace name {                             \
  extern const Kernels<float> kernels_float;   \
  extern const Kernels<double> kernels_double; \
  }
FM_FOR_EACH_ISA(FM_DECLARE)
#undef FM_DECLARE

#define FM_CASE(name) \
  case Isa::name:     \
    return name::FM_TABLE;

template <>
const Kernels<float>& kernels<float>() {
  switch (selected_isa()) {
#define FM_TABLE kernels_float
    FM_FOR_EACH_ISA(FM_CASE)
#undef FM_TABLE
  }
  __builtin_unreachable();
}

template <>
const Kernels<double>& kernels<double>() {
  switch (selected_isa()) {
#define FM_TABLE kernels_double
    FM_FOR_EACH_ISA(FM_CASE)
#undef FM_TABLE
  }
  __builtin_unreachable();
}
#undef FM_CASE

}  // namespace fastmaml
