/*
 * linkerd-cni: the file in the CNI bin dir, which forwards each call to the node's agent.
 *
 * It sends the CNI environment, stdin and the open netns file descriptor over a Unix socket and
 * relays exit code, stdout and stderr. Static, no heap, every buffer and the time bounded.
 * Framing: cni_plugin/agent/protocol.py. What it answers without the agent:
 *   - bad environment (code 4), VERSION, and DEL and GC: the rules go with the netns, so there is
 *     nothing to undo and an agent that hangs blocks no deletion;
 *   - stdin that is not JSON (code 6);
 *   - ADD of a pod in an excluded namespace: prevResult, byte for byte;
 *   - when no whole answer came: ADD of a pod that is certainly not meshed, prevResult, at once;
 *     any other ADD and CHECK try again until their time is over (an agent that restarts is back
 *     within it), then code 11, so that no meshed pod starts unmeshed;
 *   - STATUS, always success: "not available" would take the whole node out of service, and with
 *     it the agent's own pod, which is to repair that.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "json.h"

#define NS_GET_NSTYPE 0xb703 /* linux/nsfs.h, which musl-tools does not find */

enum { MAX_ENV = 64 << 10, MAX_STDIN = 2 << 20, MAX_STDOUT = 2 << 20, MAX_STDERR = 64 << 10 };
enum { DEFAULT_TIMEOUT_MS = 10000, MAX_TIMEOUT_MS = 600000, RETRY_MS = 100 };
enum { BAD_ENV = 4, IO_FAILURE, BAD_CONTENT, BAD_CONFIG, TRY_LATER = 11 };
enum command { ADD = 1, CHECK = 2, DEL = 4, GC = 8, STATUS = 16, VERSION = 32 };

struct request_header { char magic[4]; uint32_t version, env_len, stdin_len; };
struct response_header { char magic[4]; uint32_t version, exit_code, stdout_len, stderr_len; };

static char request[sizeof(struct request_header) + MAX_ENV + MAX_STDIN + 1];
static char response[sizeof(struct response_header) + MAX_STDOUT + MAX_STDERR];
static char cni_version[32] = "1.1.0"; /* the config's, once it is read */
static char pod[600] = "(not named in CNI_ARGS)";
static struct timespec deadline;
static int timeout_ms = DEFAULT_TIMEOUT_MS;

/* ---- output ---- */

/* False when nobody reads any more: that fails the call on stdout, and matters not on stderr. */
static bool write_all(int fd, const char *data, size_t len) {
    while (len > 0) {
        const ssize_t n = write(fd, data, len);
        if (n >= 0) {
            data += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN) {
            struct pollfd item = {.fd = fd, .events = POLLOUT};
            if (poll(&item, 1, timeout_ms) <= 0) return false;
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

/* One line on stderr; what is not printable ASCII becomes '?'. */
__attribute__((format(printf, 1, 2))) static void log_line(const char *format, ...) {
    char line[4000] = "linkerd-cni: ";
    const size_t used = strlen(line);
    va_list args;
    va_start(args, format);
    vsnprintf(line + used, sizeof line - used - 1, format, args);
    va_end(args);
    for (char *c = line; *c; c++)
        if (*c < ' ' || *c > '~') *c = '?';
    strcat(line, "\n");
    write_all(STDERR_FILENO, line, strlen(line));
}

/* Prints a CNI error (SPEC 1.1.0, "Error") and one log line, and ends with exit code 1. */
__attribute__((format(printf, 2, 3), noreturn))
static void fail(int code, const char *format, ...) {
    char msg[1500], escaped[2 * sizeof msg], out[sizeof escaped + 128];
    va_list args;
    va_start(args, format);
    vsnprintf(msg, sizeof msg, format, args);
    va_end(args);
    size_t len = 0;
    for (const char *c = msg; *c; c++) {
        if (*c == '"' || *c == '\\') escaped[len++] = '\\';
        escaped[len++] = *c >= ' ' && *c <= '~' ? *c : '?';
    }
    escaped[len] = 0;
    int n = snprintf(out, sizeof out,
                     "{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"%s\",\"details\":\"\"}\n",
                     cni_version, code, escaped);
    log_line("msg=\"failed\" code=%d error=\"%s\"", code, escaped);
    write_all(STDOUT_FILENO, out, (size_t)n);
    exit(1);
}

/* ---- the pod, and the one decision that is made here ---- */

/* One value of CNI_ARGS (K=V;K2=V2); the last one counts. False where it is absent or empty. */
static bool pod_arg(const char *name, char *to, size_t size) {
    const size_t len = strlen(name);
    bool found = false;
    for (const char *p = getenv("CNI_ARGS"); p; p = strchr(p, ';'), p = p ? p + 1 : NULL) {
        if (strncmp(p, name, len) != 0 || p[len] != '=') continue;
        const size_t n = strcspn(p + len + 1, ";");
        found = n > 0 && n < size;
        snprintf(to, size, "%.*s", found ? (int)n : 0, p + len + 1);
    }
    return found;
}

static bool is_excluded(struct span config, const char *namespace) {
    bool unsure = false;
    struct span meshgraft = member(config, "meshgraft", &unsure), key, name;
    struct span list = member(meshgraft, "excludeNamespaces", &unsure);
    if (unsure) return false;
    if (!list.at) return !strcmp(namespace, "kube-system") || !strcmp(namespace, "linkerd-cni");
    if (*list.at != '[') return false;
    const char *at = list.at;
    while (next_item(&at, list.end, &key, &name))
        if (*name.at == '"' && is(name, namespace)) return true;
    return false;
}

/* Whether the runtime handed over the pod's annotations and no injector left a mark there. Of a
 * pod that has none containerd hands over null (an empty map in Go). */
static bool is_unmarked(struct span config) {
    static const char *const marks[] = {"meshgraft.io/redirect", "linkerd.io/proxy-version",
                                        "linkerd.io/created-by", "linkerd.io/trust-root-sha256"};
    bool unsure = false;
    struct span runtime = member(config, "runtimeConfig", &unsure), key, value;
    struct span annotations =
        member_or_null(runtime, "io.kubernetes.cri.pod-annotations", &unsure);
    if (!unsure && is_null(annotations)) return true;
    if (unsure || !is_object(annotations)) return false;
    const char *at = annotations.at;
    while (next_item(&at, annotations.end, &key, &value)) {
        if (has_escape(key)) return false;
        for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
            if (is(key, marks[i])) return false;
    }
    return true;
}

/* Ends an ADD with success: prevResult byte for byte, or as Linkerd does where there is none. */
__attribute__((noreturn)) static void hand_on(struct span config) {
    bool unsure = false;
    struct span result = member(config, "prevResult", &unsure);
    char empty[64];
    if (!result.at && !unsure) {
        result.at = empty;
        result.end = empty + sprintf(empty, "{\"cniVersion\":\"%s\"}", cni_version);
    }
    if (!is_object(result)) fail(BAD_CONFIG, "pod %s: prevResult is not a JSON object", pod);
    exit(write_all(STDOUT_FILENO, result.at, (size_t)(result.end - result.at)) ? 0 : 1);
}

static bool logs_info(struct span config) {
    bool unsure = false;
    struct span level = member(config, "log_level", &unsure);
    const size_t len = level.at ? (size_t)(level.end - level.at) : 0;
    return (len == 6 && !strncasecmp(level.at, "\"info\"", 6)) ||
           (len == 7 && !strncasecmp(level.at, "\"debug\"", 7));
}

/* ---- input ---- */

static const char *env(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

/* The rules of Linkerd's CNI library: all missing names at once, then the two that have a form. */
static enum command check_environment(void) {
    static const char *const commands[] = {"ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"};
    static const struct { const char *name; int needed_by; } needs[] = {
        {"CNI_COMMAND", ~0},
        {"CNI_CONTAINERID", ADD | CHECK | DEL},
        {"CNI_NETNS", ADD | CHECK},
        {"CNI_IFNAME", ADD | CHECK | DEL},
        {"CNI_PATH", ADD | CHECK | DEL | GC | STATUS},
    };
    int command = 0;
    for (int i = 0; i < 6; i++)
        if (!strcmp(env("CNI_COMMAND"), commands[i])) command = 1 << i;
    if (!command && *env("CNI_COMMAND"))
        fail(BAD_ENV, "unknown CNI_COMMAND: %.200s", env("CNI_COMMAND"));
    char missing[128] = "";
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        if (*env(needs[i].name) || (i > 0 && !(needs[i].needed_by & command))) continue;
        if (*missing) strcat(missing, ",");
        strcat(missing, needs[i].name);
    }
    if (*missing) fail(BAD_ENV, "required env variables [%s] missing", missing);
    if (!(command & (ADD | CHECK | DEL))) return command;

    static const char id_chars[] =
        "_.-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    const char *id = env("CNI_CONTAINERID"), *name = env("CNI_IFNAME");
    if (id[strspn(id, id_chars)] || strchr("_.-", *id))
        fail(BAD_ENV, "invalid characters in CNI_CONTAINERID: %.200s", id);
    if (strlen(name) > 15)
        fail(BAD_ENV, "CNI_IFNAME is too long (at most 15 characters): %.200s", name);
    if (!strcmp(name, ".") || !strcmp(name, ".."))
        fail(BAD_ENV, "CNI_IFNAME must not be . or ..");
    if (name[strcspn(name, "/: \t\n\v\f\r")])
        fail(BAD_ENV, "CNI_IFNAME must not contain / or : or whitespace: %.200s", name);
    return command;
}

static int time_left(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long ms = (deadline.tv_sec - now.tv_sec) * 1000 + (deadline.tv_nsec - now.tv_nsec) / 1000000;
    return ms > 0 ? (int)ms : 0;
}

static void start_clock(void) {
    const long wanted = strtol(env("LINKERD_CNI_TIMEOUT_MS"), NULL, 10);
    if (wanted > 0 && wanted <= MAX_TIMEOUT_MS) timeout_ms = (int)wanted;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    deadline.tv_nsec += timeout_ms % 1000 * 1000000L;
}

/* False when the deadline passes first. What poll reports as broken, the next call names. */
static bool wait_for(int fd, short events) {
    struct pollfd item = {.fd = fd, .events = events};
    int n;
    do n = poll(&item, 1, time_left());
    while (n < 0 && errno == EINTR);
    return n > 0;
}

/* Opens the pod's network namespace. Where that cannot be, -1 and the reason: a pod that has
 * nothing to do with the mesh does not need it, so the agent judges. */
static int open_netns(const char **problem) {
    struct stat theirs, ours;
    const char *path = env("CNI_NETNS");
    if (!*path) return -1; /* STATUS */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        *problem = strerror(errno);
        return -1;
    }
    if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET) { /* a pidfd would lead to the node's own */
        *problem = "it is not a network namespace";
        close(fd);
        return -1;
    }
    if (stat("/proc/self/ns/net", &ours) == 0 && fstat(fd, &theirs) == 0 &&
        ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino) {
        *problem = "it is the node's own network namespace";
        close(fd);
        fd = -1;
    }
    return fd;
}

static size_t add_env(size_t used, const char *text, const char *value) {
    const size_t room = MAX_ENV - used;
    char *to = request + sizeof(struct request_header) + used;
    const int n = snprintf(to, room, "%s%s", text, value);
    if ((size_t)n >= room) fail(BAD_ENV, "the CNI_ variables are larger than %d bytes", MAX_ENV);
    return used + (size_t)n + 1;
}

static size_t read_stdin(char *to) {
    for (size_t len = 0;;) {
        if (!wait_for(STDIN_FILENO, POLLIN))
            fail(IO_FAILURE, "pod %s: stdin was not closed within %d ms", pod, timeout_ms);
        ssize_t n = read(STDIN_FILENO, to + len, MAX_STDIN + 1 - len);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n < 0) fail(IO_FAILURE, "pod %s: cannot read stdin: %s", pod, strerror(errno));
        if (n == 0) return len;
        len += (size_t)n;
        if (len > MAX_STDIN)
            fail(BAD_CONTENT, "pod %s: stdin is larger than %d bytes", pod, MAX_STDIN);
    }
}

static struct span read_config(const char *at, size_t len) {
    const char *end = at + len, *start = skip_space(at, end), *stop_at = read_value(start, end, 0);
    if (stop_at && skip_space(stop_at, end) != end) {
        json_fault = skip_space(stop_at, end);
        stop_at = NULL;
    }
    if (!stop_at)
        fail(BAD_CONTENT, "pod %s: stdin is not JSON, or nested deeper than %d levels, at byte %zu",
             pod, MAX_DEPTH, (size_t)(json_fault - at));
    struct span config = {start, stop_at};
    if (!is_object(config)) fail(BAD_CONTENT, "pod %s: stdin is not a JSON object", pod);
    bool unsure = false;
    struct span version = member(config, "cniVersion", &unsure);
    const size_t n = version.at && *version.at == '"' ? (size_t)(version.end - version.at) - 2 : 0;
    if (n > 0 && n < sizeof cni_version && strspn(version.at + 1, "0123456789.") == n)
        snprintf(cni_version, sizeof cni_version, "%.*s", (int)n, version.at + 1);
    return config;
}

/* ---- the agent ---- */

static char socket_path[300] = "/run/linkerd-cni/agent.sock";

/* Takes the agent's address from the environment, or else from the configuration; NULL, or what is
 * wrong with it. */
static const char *find_agent(struct span config) {
    bool unsure = false;
    const struct span given = member(member(config, "meshgraft", &unsure), "socket", &unsure);
    if (*env("LINKERD_CNI_SOCKET")) {
        snprintf(socket_path, sizeof socket_path, "%s", env("LINKERD_CNI_SOCKET"));
    } else if (unsure || (given.at && (strncmp(given.at, "\"/", 2) != 0 || has_escape(given)))) {
        strcpy(socket_path, "meshgraft.socket");
        return "not an absolute path without escapes";
    } else if (given.at) {
        const int len = (int)(given.end - given.at) - 2; /* without its quotes */
        snprintf(socket_path, sizeof socket_path, "%.*s", len, given.at + 1);
    }
    return NULL;
}

static const char *send_request(int fd, size_t len, int netns) {
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = {{0}};
    for (size_t sent = 0; sent < len;) {
        struct iovec part = {request + sent, len - sent};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        if (sent == 0 && netns >= 0) { /* the descriptor travels with the first byte */
            message.msg_control = control.bytes;
            message.msg_controllen = sizeof control.bytes;
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof netns);
            memcpy(CMSG_DATA(header), &netns, sizeof netns);
        }
        if (!wait_for(fd, POLLOUT)) return "no answer in time";
        const ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) sent += (size_t)n;
        else if (errno != EAGAIN && errno != EINTR) return strerror(errno);
    }
    return NULL;
}

static const char *receive_response(int fd, struct response_header *head) {
    for (size_t got = 0, want = sizeof *head; got < want;) {
        if (!wait_for(fd, POLLIN)) return got ? "no whole answer in time" : "no answer in time";
        const ssize_t n = recv(fd, response + got, want - got, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n < 0) return strerror(errno);
        if (n == 0) return "it closed the connection before its answer was whole";
        got += (size_t)n;
        if (got != sizeof *head) continue;
        memcpy(head, response, sizeof *head);
        const uint32_t out = ntohl(head->stdout_len), err = ntohl(head->stderr_len);
        if (memcmp(head->magic, "MGRS", 4) != 0 || ntohl(head->version) != 1 ||
            ntohl(head->exit_code) > 255 || out > MAX_STDOUT || err > MAX_STDERR)
            return "its answer is not of version 1 of the protocol";
        want += out + err;
    }
    return NULL;
}

static const char *converse(int fd, const struct sockaddr_un *address, size_t len, int netns,
                            struct response_header *head) {
    /* A connect that does not block fails at once when the agent's backlog is full; this waits. */
    const int left = time_left() + 1;
    const struct timeval limit = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) < 0)
        return errno == EAGAIN ? "no connection in time" : strerror(errno);
    const char *problem = send_request(fd, len, netns);
    return problem ? problem : receive_response(fd, head);
}

/* Sends the request and reads the whole response; NULL, or what went wrong. */
static const char *exchange(size_t len, int netns, struct response_header *head) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(socket_path) >= sizeof address.sun_path) return "the socket's path is too long";
    strcpy(address.sun_path, socket_path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return strerror(errno);
    const char *problem = converse(fd, &address, len, netns, head);
    close(fd);
    return problem;
}

/* Whether a call that got no answer is worth another one after a pause: rules are put whole, so
 * one that the lost agent had done already does no harm. The pause differs from program to program,
 * so that a node full of waiting pods does not knock in step. */
static bool may_try_again(enum command command, struct span config) {
    const long pause = RETRY_MS + getpid() % RETRY_MS;
    if (command == STATUS || (command == ADD && is_unmarked(config))) return false;
    if (time_left() <= 2 * pause) return false;
    const struct timespec time = {.tv_sec = pause / 1000, .tv_nsec = pause % 1000 * 1000000};
    nanosleep(&time, NULL);
    return true;
}

__attribute__((noreturn)) static void without_agent(enum command command, struct span config,
                                                    const char *problem) {
    static const char advice[] = "see `kubectl -n linkerd-cni get pods -o wide` and the log of the "
                                 "linkerd-cni pod on this node";
    if (command == STATUS) {
        log_line("msg=\"the agent of this node cannot serve\" agent=\"%s: %s\" hint=\"%s\"",
                 socket_path, problem, advice);
        exit(0);
    }
    if (command == ADD && is_unmarked(config)) {
        log_line("msg=\"passed through\" pod=%s reason=no-mark agent=\"%s: %s\"", pod,
                 socket_path, problem);
        hand_on(config);
    }
    fail(TRY_LATER, "pod %s: the linkerd-cni agent of this node is needed and gave no answer "
         "(%s: %s), so the pod waits rather than start outside the mesh; %s",
         pod, socket_path, problem, advice);
}

int main(void) {
    extern char **environ;
    start_clock();
    signal(SIGPIPE, SIG_IGN);
    const enum command command = check_environment();
    if (command & (DEL | GC)) return 0;
    if (command == VERSION) {
        static const char versions[] =
            "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\","
            "\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n";
        return write_all(STDOUT_FILENO, versions, sizeof versions - 1) ? 0 : 1;
    }
    char namespace[256], name[256];
    const bool known = pod_arg("K8S_POD_NAMESPACE", namespace, sizeof namespace);
    if (known && pod_arg("K8S_POD_NAME", name, sizeof name))
        snprintf(pod, sizeof pod, "%s/%s", namespace, name);

    size_t env_len = 0;
    for (char **entry = environ; *entry; entry++)
        if (strncmp(*entry, "CNI_", 4) == 0) env_len = add_env(env_len, *entry, "");
    const char *netns_problem = NULL;
    const int netns = open_netns(&netns_problem);
    if (netns_problem) env_len = add_env(env_len, "LINKERD_CNI_NETNS_ERROR=", netns_problem);

    char *input = request + sizeof(struct request_header) + env_len;
    const size_t stdin_len = read_stdin(input);
    const struct span config = read_config(input, stdin_len);
    if (command == ADD && known && is_excluded(config, namespace)) {
        if (logs_info(config))
            log_line("msg=\"passed through\" pod=%s reason=excluded-namespace", pod);
        hand_on(config);
    }

    const struct request_header ask = {{'M', 'G', 'R', 'Q'}, htonl(1), htonl((uint32_t)env_len),
                                       htonl((uint32_t)stdin_len)};
    struct response_header answer;
    memcpy(request, &ask, sizeof ask);
    const char *problem = find_agent(config);
    if (!problem) {
        do problem = exchange(sizeof ask + env_len + stdin_len, netns, &answer);
        while (problem && may_try_again(command, config));
    }
    if (problem) without_agent(command, config, problem);
    const uint32_t out = ntohl(answer.stdout_len), err = ntohl(answer.stderr_len);
    write_all(STDERR_FILENO, response + sizeof answer + out, err);
    if (!write_all(STDOUT_FILENO, response + sizeof answer, out)) return 1;
    return (int)ntohl(answer.exit_code);
}
