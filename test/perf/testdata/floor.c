/* What a container's start costs when nobody manages it: five namespaces, an overlay
   on tmpfs, proc, pivot_root, exec of true and its end. Prints milliseconds for each of
   n turns.  floor LOWER N */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *lower;

static void need(int failed, const char *what) {
	if (failed) {
		perror(what);
		_exit(70);
	}
}

static int child(void *arg) {
	(void)arg;
	char options[4200];
	need(mount("", "/", "", MS_REC | MS_PRIVATE, ""), "private");
	need(mount("tmpfs", "/mnt", "tmpfs", 0, ""), "tmpfs");
	need(mkdir("/mnt/u", 0755) | mkdir("/mnt/w", 0755) | mkdir("/mnt/m", 0755), "mkdir");
	snprintf(options, sizeof options, "lowerdir=%s,upperdir=/mnt/u,workdir=/mnt/w", lower);
	need(mount("overlay", "/mnt/m", "overlay", 0, options), "overlay");
	need(chdir("/mnt/m"), "chdir");
	mkdir("proc", 0755);
	need(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""), "proc");
	need(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	need(umount2(".", MNT_DETACH), "umount");
	need(chdir("/"), "chdir /");
	execl("/bin/true", "true", (char *)0);
	perror("exec");
	_exit(71);
}

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

int main(int argc, char **argv) {
	static char stack[1 << 16] __attribute__((aligned(16)));
	if (argc != 3)
		return 64;
	lower = argv[1];
	for (int i = atoi(argv[2]); i > 0; i--) {
		double start = now();
		int status;
		pid_t pid = clone(child, stack + sizeof stack, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | SIGCHLD, NULL);
		need(pid < 0, "clone");
		need(waitpid(pid, &status, 0) < 0, "wait");
		if (status) {
			fprintf(stderr, "status %d\n", status);
			return 1;
		}
		printf("%.3f\n", now() - start);
	}
	return 0;
}
