/*
 * meshgraft-network-validator: proves in a millisecond that a pod's traffic is redirected.
 *
 * It is the init container's command, and tries the one case that all healthy pods are in: the
 * rules are there already, and a connection to --connect-addr in each family that the pod has
 * comes out at --listen-addr with our own token. Then it waits for the agent's word about inbound
 * rules, as cni_plugin/init/network_validator.py does. Whatever else it meets (another flag, a family
 * that is not redirected yet, a wrong rule, an address that is skipped on purpose), it does not
 * judge: it becomes `meshgraft network-validator` with the same arguments, which knows all cases,
 * keeps trying and words the errors. So it can be slower than that, but never more lenient.
 * Exit code 95: stopped by a signal before anything was proven.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { NOT_VALIDATED = 95, TOKEN_LENGTH = 64, TRY_MS = 250, MAX_WAIT_MS = 60000 };

struct address { int family; socklen_t length; union { struct sockaddr any; struct sockaddr_in four; struct sockaddr_in6 six; } at; };
struct flags { const char *listen, *connect, *redirect, *inbound_wait; };

/* As in cni_plugin/init/network_validator.py: word for word, because people search for it. */
static const char untold[] =
    "Note: inbound: this node's linkerd-cni agent did not say whether the rules are right; it sets those "
    "of both directions together, and outbound was seen to work\n";

static void stopped(int number) {
    static const char term[] = "Error: stopped by SIGTERM before traffic was seen to be redirected\n";
    static const char interrupt[] = "Error: stopped by SIGINT before traffic was seen to be redirected\n";
    const ssize_t ignored = number == SIGTERM ? write(2, term, sizeof term - 1) : write(2, interrupt, sizeof interrupt - 1);
    (void)ignored;
    _exit(NOT_VALIDATED);
}

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000L + now.tv_nsec / 1000000L;
}

/* ---- arguments ---- */

/* A time of up to a minute in milliseconds; longer ones and other forms are not ours. */
static bool parse_duration(const char *text, long *milliseconds) {
    char *end;
    *milliseconds = 0;
    if (text == NULL || strcmp(text, "0") == 0) return text != NULL;
    if (*text < '0' || *text > '9') return false;
    *milliseconds = strtol(text, &end, 10);
    if (*milliseconds > MAX_WAIT_MS) return false;
    if (strcmp(end, "s") == 0) *milliseconds *= 1000;
    else if (strcmp(end, "ms") != 0) return false;
    return *milliseconds <= MAX_WAIT_MS;
}

static bool parse_flags(char **argv, struct flags *flags) {
    const struct { const char *name; const char **value; } known[] = {
        {"--listen-addr", &flags->listen}, {"--connect-addr", &flags->connect},
        {"--redirect", &flags->redirect}, {"--inbound-wait", &flags->inbound_wait},
    };
    const char *timeout = NULL;
    for (argv++; *argv != NULL; argv += 2) {
        const char **value = NULL;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (strcmp(*argv, known[i].name) == 0) value = known[i].value;
        if (strcmp(*argv, "--timeout") == 0) value = &timeout;
        if (value == NULL || *value != NULL || argv[1] == NULL) return false;
        *value = argv[1];
    }
    /* Texts that are no time-out or no Redirect are to be refused there, with an explanation. */
    long milliseconds;
    return flags->listen && flags->connect && flags->redirect && flags->inbound_wait &&
           strncmp(flags->redirect, "{\"version\":1,", 13) == 0 && parse_duration(timeout, &milliseconds);
}

/* IP:PORT, with brackets around IPv6, as parse_address() has it. */
static bool parse_address(const char *text, struct address *address) {
    char host[INET6_ADDRSTRLEN];
    const char *colon = strrchr(text, ':');
    char *end;
    if (colon == NULL || colon[1] < '0' || colon[1] > '9') return false;
    const unsigned long port = strtoul(colon + 1, &end, 10);
    if (*end != '\0' || port == 0 || port > 65535) return false;
    const bool six = *text == '[' && colon > text && colon[-1] == ']';
    const size_t length = (size_t)(colon - text) - (six ? 2 : 0);
    if (length >= sizeof host) return false;
    memcpy(host, text + (six ? 1 : 0), length);
    host[length] = '\0';
    memset(address, 0, sizeof *address);
    address->family = six ? AF_INET6 : AF_INET;
    if (six) {
        address->length = sizeof address->at.six;
        address->at.six.sin6_family = AF_INET6;
        address->at.six.sin6_port = htons((unsigned short)port);
        return inet_pton(AF_INET6, host, &address->at.six.sin6_addr) == 1;
    }
    address->length = sizeof address->at.four;
    address->at.four.sin_family = AF_INET;
    address->at.four.sin_port = htons((unsigned short)port);
    return inet_pton(AF_INET, host, &address->at.four.sin_addr) == 1;
}

/* ---- the pod ---- */

/* Which families others reach the pod by: none of loopback's, no link-local IPv6. */
static bool families(bool *four, bool *six) {
    struct ifaddrs *all;
    *four = *six = false;
    if (getifaddrs(&all) != 0) return false;
    for (struct ifaddrs *one = all; one != NULL; one = one->ifa_next) {
        if (one->ifa_addr == NULL) continue;
        if (one->ifa_addr->sa_family == AF_INET) {
            const struct sockaddr_in *found = (const void *)one->ifa_addr;
            if (ntohl(found->sin_addr.s_addr) >> 24 != 127) *four = true;
        } else if (one->ifa_addr->sa_family == AF_INET6) {
            const struct sockaddr_in6 *found = (const void *)one->ifa_addr;
            if (!IN6_IS_ADDR_LOOPBACK(&found->sin6_addr) && !IN6_IS_ADDR_LINKLOCAL(&found->sin6_addr)) *six = true;
        }
    }
    freeifaddrs(all);
    return true;
}

static bool is_wildcard(const struct address *address) {
    return address->family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&address->at.six.sin6_addr)
                                       : address->at.four.sin_addr.s_addr == INADDR_ANY;
}

static bool make_token(char token[TOKEN_LENGTH]) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    unsigned char random[TOKEN_LENGTH];
    if (getrandom(random, sizeof random, GRND_NONBLOCK) != sizeof random) return false;
    for (int i = 0; i < TOKEN_LENGTH - 1; i++) token[i] = letters[random[i] % (sizeof letters - 1)];
    token[TOKEN_LENGTH - 1] = '\n';
    return true;
}

static int listener(struct address address) {
    const int one = 1, fd = socket(address.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
        (address.family == AF_INET || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) == 0) &&
        bind(fd, &address.at.any, address.length) == 0 && listen(fd, 16) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Serve the token to whatever arrives, and read it back. */
static bool comes_back(int server, int client, const char token[TOKEN_LENGTH]) {
    char received[TOKEN_LENGTH];
    size_t length = 0;
    const long deadline = now_ms() + TRY_MS;
    while (length < sizeof received) {
        struct pollfd items[] = {{.fd = server, .events = POLLIN}, {.fd = client, .events = POLLIN}};
        const long left = deadline - now_ms();
        if (left <= 0 || poll(items, 2, (int)left) <= 0) return false;
        if (items[0].revents) {
            const int connection = accept4(server, NULL, NULL, SOCK_CLOEXEC);
            if (connection >= 0) {
                const ssize_t sent = send(connection, token, TOKEN_LENGTH, MSG_NOSIGNAL);
                close(connection);
                if (sent != TOKEN_LENGTH) return false;
            }
        }
        if (items[1].revents) {
            const ssize_t n = recv(client, received + length, sizeof received - length, 0);
            if (n <= 0) return false;
            length += (size_t)n;
        }
    }
    return memcmp(received, token, sizeof received) == 0;
}

static bool is_redirected(struct address listen, struct address connect_to) {
    char token[TOKEN_LENGTH];
    if (!make_token(token)) return false;
    const int server = listener(listen);
    if (server < 0) return false;
    const int client = socket(connect_to.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool proven = false;
    if (client >= 0) {
        if (connect(client, &connect_to.at.any, connect_to.length) == 0 || errno == EINPROGRESS)
            proven = comes_back(server, client, token);
        close(client);
    }
    close(server);
    return proven;
}

static bool is_proven(const char *family_listen, const struct address *given, const char *far_away, int family) {
    struct address listen, to;
    if (!parse_address(family_listen, &listen)) return false;
    if (given->family == family) to = *given;
    else if (!parse_address(far_away, &to)) return false;
    return is_redirected(listen, to);
}

static bool outbound(const struct flags *flags) {
    struct address listen, to;
    char four_at[32], six_at[32];
    bool four, six;
    if (!parse_address(flags->listen, &listen) || !parse_address(flags->connect, &to)) return false;
    /* An address that is skipped on purpose proves nothing, and is not to be troubled. */
    if (!is_wildcard(&listen) || strstr(flags->redirect, "skipOutboundSubnets") || !families(&four, &six)) return false;
    six = six && listen.family == AF_INET6 && strstr(flags->redirect, "\"ipv6\":true");
    const unsigned port = ntohs(listen.family == AF_INET6 ? listen.at.six.sin6_port : listen.at.four.sin_port);
    snprintf(four_at, sizeof four_at, "0.0.0.0:%u", port);
    snprintf(six_at, sizeof six_at, "[::]:%u", port);
    return (four || six) && (!four || is_proven(four_at, &to, "192.0.2.2:1404", AF_INET)) &&
           (!six || is_proven(six_at, &to, "[2001:db8::2]:1404", AF_INET6));
}

/* ---- the agent's word (cni_plugin/dataplane/inbound_word.py) ---- */

static int mailbox(void) {
    static const char name[] = "\0meshgraft-network-validator";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    memcpy(address.sun_path, name, sizeof name - 1);
    if (bind(fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof name - 1)) == 0) return fd;
    close(fd);
    return -1;
}

enum word { RIGHT, WRONG, SILENCE };

static enum word hear(int fd, long wait) {
    char said[8];
    struct pollfd item = {.fd = fd, .events = POLLIN}; /* of no mailbox (-1) poll says nothing */
    if (poll(&item, 1, (int)wait) <= 0) return SILENCE;
    const ssize_t n = recv(fd, said, sizeof said, MSG_TRUNC);
    return n == 5 && memcmp(said, "right", 5) == 0 ? RIGHT : WRONG;
}

static int become_the_other(char **argv) {
    static char program[] = "meshgraft", command[] = "network-validator";
    char *words[64] = {program, command};
    size_t count = 2;
    for (argv++; *argv != NULL; argv++) {
        if (count == sizeof words / sizeof *words - 1) {
            fputs("Error: too many arguments\n", stderr);
            return NOT_VALIDATED;
        }
        words[count++] = *argv;
    }
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    execvp(program, words);
    fprintf(stderr, "Error: traffic was not seen to be redirected at once, and meshgraft, which would try again, cannot be run: %s\n", strerror(errno));
    return NOT_VALIDATED;
}

int main(int argc, char **argv) {
    struct flags flags = {0};
    long wait;
    (void)argc;
    signal(SIGTERM, stopped); /* the first process of a container has no default action */
    signal(SIGINT, stopped);
    if (!parse_flags(argv, &flags) || !parse_duration(flags.inbound_wait, &wait)) return become_the_other(argv);
    const int box = mailbox();
    if (!outbound(&flags)) return become_the_other(argv);
    switch (hear(box, wait)) {
    case WRONG: return become_the_other(argv);
    case SILENCE: if (wait > 0) fputs(untold, stderr); break;
    case RIGHT: break;
    }
    puts("Validated");
    return 0;
}
