/* Planted senders that know no libc: raw system calls in a static image without any library (x86-64 and aarch64). */
#include <arpa/inet.h>
#include <linux/time_types.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static long call(long n, long a, long b, long c, long d, long e, long f) {
#if defined __x86_64__
  long r;
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
  __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
  return r;
#else
  register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
                x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
#endif
}
static void udp(void) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = PORT >> 8 | (PORT & 255) << 8, .sin_addr = {0x0a0200c0}};
  long s = call(SYS_socket, AF_INET, SOCK_DGRAM, 0, 0, 0, 0);
  call(SYS_sendto, s, (long)"planted raw", 11, 0, (long)&a, sizeof a);
}
void _start(void) {
  long t[2] = {0, 0};
  (void)t;
#if defined CLASS_PLAIN
  udp();
#elif defined CLASS_DOUBLE_FORK
  if (call(SYS_clone, 17, 0, 0, 0, 0, 0) == 0) {
    call(SYS_setsid, 0, 0, 0, 0, 0, 0);
    if (call(SYS_clone, 17, 0, 0, 0, 0, 0) == 0) {
      t[1] = 200000000;
      call(SYS_nanosleep, (long)t, 0, 0, 0, 0, 0);
      udp();
    }
  }
#elif defined CLASS_DATE
  call(SYS_clock_gettime, 0, (long)t, 0, 0, 0, 0);
  if (t[0] > LIMIT) udp();
#elif defined CLASS_UPTIME
  call(SYS_clock_gettime, 1, (long)t, 0, 0, 0, 0);
  if (t[0] > LIMIT) udp();
#elif defined CLASS_DELAYED
  t[0] = 300;
  call(SYS_nanosleep, (long)t, 0, 0, 0, 0, 0);
  udp();
#endif
  call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
}
