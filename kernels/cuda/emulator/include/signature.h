// What a kernel's parameters are, as the compiler sees them, so that a launch can be checked against them.
#pragma once

namespace emulator {

template <class T>
std::string type_name() {
  if constexpr (std::is_pointer_v<T>) {
    using Element = std::remove_pointer_t<T>;
    return (std::is_const_v<Element> ? "const " : "") + type_name<std::remove_cv_t<Element>>() + "*";
  } else if constexpr (std::is_void_v<T>) {
    return "void";
  } else if constexpr (std::is_same_v<T, __half>) {
    return "float16";
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return "bfloat16";
  } else if constexpr (std::is_same_v<T, bool>) {
    return "bool";
  } else if constexpr (std::is_floating_point_v<T>) {
    return "float" + std::to_string(8 * sizeof(T));
  } else if constexpr (std::is_integral_v<T>) {
    return (std::is_signed_v<T> ? "int" : "uint") + std::to_string(8 * sizeof(T));
  } else {
    return "struct";
  }
}

template <class... Parameters>
std::string signature(void (*)(Parameters...)) {
  std::string types;
  ((types += (types.empty() ? "" : ",") + type_name<std::remove_cv_t<Parameters>>()), ...);
  return types;
}

template <class... Parameters, size_t... I>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<Parameters>*>(arguments[I])...);
}

template <class... Parameters>
void call(void (*kernel)(Parameters...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<Parameters...>{});
}

}  // namespace emulator

#define EMULATOR_EXPORT(kernel, most_threads) \
  extern "C" int emulator_most_threads_##kernel() { return most_threads; } \
  extern "C" void emulator_call_##kernel(void** arguments) { emulator::call(kernel, arguments); } \
  extern "C" const char* emulator_signature_##kernel() { \
    static const std::string types = emulator::signature(kernel); \
    return types.c_str(); \
  }

// Where this library's shared memory lies; the linker knows, if it has any.
extern "C" {
extern unsigned char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern unsigned char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
unsigned char* emulator_shared_begin() { return __start_cuda_shared; }
unsigned char* emulator_shared_end() { return __stop_cuda_shared; }
}
