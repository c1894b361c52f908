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

template <>
const Kernels<float>& kernels<float>() {
  switch (selected_isa()) {
#define FM_CASE(name) \
  case Isa::name:     \
    return name::kernels_float;
    FM_FOR_EACH_ISA(FM_CASE)
#undef FM_CASE
  }
  return portable::kernels_float;
}

template <>
const Kernels<double>& kernels<double>() {
  switch (selected_isa()) {
#define FM_CASE(name) \
  case Isa::name:     \
    return name::kernels_double;
    FM_FOR_EACH_ISA(FM_CASE)
#undef FM_CASE
  }
  return portable::kernels_double;
}

}  // namespace fastmaml
