package load

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Stat returns the fields of proc_pid_stat(5) in a directory below /proc from the third one on;
// none if the process has ended.
func Stat(dir string) []string {
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.Fields(rest)
}

// CPU returns the processor time of the process of a directory below /proc. The kernel's clock
// ticks 100 times a second.
func CPU(dir string) (user, system time.Duration) {
	fields := Stat(dir)
	ticks := func(field int) time.Duration {
		if len(fields) <= field-3 {
			return 0
		}
		n, _ := strconv.ParseInt(fields[field-3], 10, 64)
		return time.Duration(n) * 10 * time.Millisecond
	}
	return ticks(14), ticks(15)
}

// Memory returns a value of proc_pid_status(5) in bytes: VmHWM is the peak of resident memory,
// VmRSS its present size, RssFile the part of it that are pages of files.
func Memory(dir, value string) int64 {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, value+":"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}
