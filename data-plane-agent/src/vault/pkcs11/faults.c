/* A PKCS#11 module for tests: hands every call on to the module in FREEHOLD_TEST_MODULE, except what the rules in the file
 * FREEHOLD_TEST_FAULTS say. A rule is a line "FUNCTION ACTION VALUE NTH": FUNCTION counts as in CK_FUNCTION_LIST, -1 is every
 * function; ACTION is error (VALUE is the answer), sleep (VALUE in milliseconds, then the call goes on), exit (the process
 * ends at once) or lose (every session of the token is closed and the rules are removed, then the call goes on); NTH is the
 * call that it begins with, 1 for every call. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long word;
typedef word (*function)(word, word, word, word, word, word, word, word);

enum { FUNCTIONS = 68 };
static function real[FUNCTIONS];
static unsigned calls[FUNCTIONS];
static struct {
    unsigned char major, minor;
    function functions[FUNCTIONS];
} list;

enum { C_CLOSE_ALL_SESSIONS = 14, C_GET_SESSION_INFO = 15 };

static int rule(int index, word session, word *answer) {
    char action[16];
    int which, nth;
    word value;
    unsigned call = __sync_add_and_fetch(&calls[index], 1);
    FILE *rules = fopen(getenv("FREEHOLD_TEST_FAULTS"), "r");
    if (!rules) {
        calls[index] = 0;
        return 0;
    }
    int decided = 0;
    while (!decided && fscanf(rules, "%d %15s %lu %d", &which, action, &value, &nth) == 4) {
        if ((which != index && which != -1) || call < (unsigned)nth) continue;
        if (!strcmp(action, "exit")) _exit(9);
        if (!strcmp(action, "sleep")) {
            struct timespec pause = { value / 1000, (value % 1000) * 1000000 };
            nanosleep(&pause, NULL);
        }
        if (!strcmp(action, "lose")) {
            word info[4]; /* the slot stands first */
            if (!real[C_GET_SESSION_INFO](session, (word)info, 0, 0, 0, 0, 0, 0)) real[C_CLOSE_ALL_SESSIONS](info[0], 0, 0, 0, 0, 0, 0, 0);
            unlink(getenv("FREEHOLD_TEST_FAULTS"));
        }
        if (!strcmp(action, "error")) {
            *answer = value;
            decided = 1;
        }
    }
    fclose(rules);
    return decided;
}

#define PASS(n)                                                                          \
    static word pass##n(word a, word b, word c, word d, word e, word f, word g, word h) { \
        word answer;                                                                     \
        return rule(n, a, &answer) ? answer : real[n](a, b, c, d, e, f, g, h);              \
    }
#define TEN(t, M) M(t##0) M(t##1) M(t##2) M(t##3) M(t##4) M(t##5) M(t##6) M(t##7) M(t##8) M(t##9)
#define ALL(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) TEN(1, M) TEN(2, M) TEN(3, M) TEN(4, M) TEN(5, M) \
    M(60) M(61) M(62) M(63) M(64) M(65) M(66) M(67)
ALL(PASS)
#define NAME(n) pass##n,

word C_GetFunctionList(void **out) {
    static const function passing[FUNCTIONS] = { ALL(NAME) };
    void *module = dlopen(getenv("FREEHOLD_TEST_MODULE"), RTLD_NOW | RTLD_LOCAL);
    word (*get)(void *) = module ? (word (*)(void *))dlsym(module, "C_GetFunctionList") : NULL;
    void *theirs;
    if (!get || get(&theirs)) return 5;
    memcpy(&list, theirs, sizeof list);
    memcpy(real, list.functions, sizeof real);
    memcpy(list.functions, passing, sizeof passing);
    *out = &list;
    return 0;
}
