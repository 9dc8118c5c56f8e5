/* Lets a wheel that is built beside a new glibc run on older ones: tools/make-wheels includes it.
 *
 * glibc 2.34 moved libpthread's functions into libc and gave some of them a new version of
 * their symbol; what they do did not change. Named by its old version, the symbol is found
 * by old and new ones alike. Law: only functions that auditwheel named as too new. */
#include <features.h>

#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver pthread_condattr_setclock, pthread_condattr_setclock@GLIBC_2.3.3");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver pthread_condattr_setclock, pthread_condattr_setclock@GLIBC_2.17");
#endif
