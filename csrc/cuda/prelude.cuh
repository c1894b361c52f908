// What the program's headers use of the standard library, for NVRTC, which has none.
#pragma once

using int8_t = signed char;
using uint8_t = unsigned char;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long;
using uint64_t = unsigned long;

#define NAN __int_as_float(0x7fffffff)
#define __builtin_inff() INFINITY
#define INFINITY __int_as_float(0x7f800000)
#define INT64_MAX 0x7fffffffffffffffL

namespace std {
template <class T>
struct remove_reference {
  using type = T;
};
template <class T>
struct remove_reference<T&> {
  using type = T;
};
template <class T>
struct remove_cv {
  using type = T;
};
template <class T>
struct remove_cv<const T> {
  using type = T;
};
template <class T>
using remove_reference_t = typename remove_reference<T>::type;
template <class T>
using remove_cvref_t = typename remove_cv<remove_reference_t<T>>::type;
}  // namespace std
