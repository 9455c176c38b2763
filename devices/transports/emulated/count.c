/* A plugin of qemu-user: counts the guest's instructions, and tells them between marks or as its clock.
 *
 *     -plugin count.so,tally=FILE      FILE holds struct tally, shared with the process that started qemu
 *
 * A mark is a call of getppid (see devices/runner_protocol.md). While `clock` is set, the guest's clocks
 * tell its instructions, one microsecond for each, so that whatever times itself counts itself. The count
 * is exact for a guest of one thread.
 *
 * The declarations are those of qemu's plugin interface, version 1.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
typedef uint64_t plugin_id;
struct tb;
enum { INLINE_ADD_U64 = 0 };
size_t qemu_plugin_tb_n_insns(const struct tb *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct tb *, int operation, void *value, uint64_t step);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct tb *));
void qemu_plugin_register_vcpu_init_cb(plugin_id, void (*)(plugin_id, unsigned));
void qemu_plugin_register_vcpu_syscall_cb(
    plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                        uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_vcpu_syscall_ret_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, int64_t));
PUBLIC int qemu_plugin_version = 1;

enum { CLOCK_GETTIME = 113, GETPPID = 173, CPUS = 256, BEGIN_S = 1000000, MILLION = 1000000 };

/* `counts[i % room]` is the number of instructions executed before mark i; counting.py reads the same. */
struct tally { uint64_t clock, clock_refused, threads, marks, room, counts[]; };

static struct tally *tally;
static uint64_t instructions;
static struct { uint64_t clock, place; } asked[CPUS]; /* each processor's last clock_gettime */

static void translate(plugin_id id, struct tb *block) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, &instructions, qemu_plugin_tb_n_insns(block));
}

static void before(plugin_id id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number == GETPPID) tally->counts[tally->marks++ % tally->room] = instructions;
    if (number == CLOCK_GETTIME) asked[cpu % CPUS].clock = a1, asked[cpu % CPUS].place = a2;
}

/* The guest's memory is the host's at the same address, unless qemu had to move it: then the clock that the
 * guest was just given is not found there, and it keeps it. */
static int64_t *answer_of(unsigned cpu) {
    unsigned char resident;
    struct timespec now;
    int64_t *place = (int64_t *)asked[cpu % CPUS].place;
    if (mincore((void *)((uintptr_t)place & ~(uintptr_t)4095), 4096, &resident)) return NULL;
    if (clock_gettime((clockid_t)asked[cpu % CPUS].clock, &now)) return NULL;
    return now.tv_sec - place[0] >= 0 && now.tv_sec - place[0] <= 1 ? place : NULL;
}

static void after(plugin_id id, unsigned cpu, int64_t number, int64_t result) {
    (void)id;
    if (number != CLOCK_GETTIME || result || !tally->clock) return;
    int64_t *answer = answer_of(cpu);
    if (!answer) {
        tally->clock_refused++;
        return;
    }
    answer[0] = BEGIN_S + (int64_t)(instructions / MILLION);
    answer[1] = (int64_t)(instructions % MILLION) * 1000;
}

static void start(plugin_id id, unsigned cpu) {
    (void)id, (void)cpu;
    tally->threads++;
}

PUBLIC int qemu_plugin_install(plugin_id id, const void *info, int count, char **words) {
    struct stat size;
    (void)info;
    if (count != 1 || strncmp(words[0], "tally=", 6)) return -1;
    int file = open(words[0] + 6, O_RDWR);
    if (file < 0 || fstat(file, &size) || size.st_size < (off_t)sizeof *tally) return -1;
    tally = mmap(NULL, (size_t)size.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (tally == MAP_FAILED || !tally->room) return -1;
    qemu_plugin_register_vcpu_init_cb(id, start);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    qemu_plugin_register_vcpu_syscall_cb(id, before);
    qemu_plugin_register_vcpu_syscall_ret_cb(id, after);
    return 0;
}
