package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// compilers returns the work of the compilers and linkers below a process. It
// reads /proc, so elsewhere than on Linux it returns nothing.
func compilers(ancestor int) []string {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well formed
	var list []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // the process has ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || !below(pid, ancestor) {
			continue
		}
		if work := workOf(strings.Split(string(line), "\x00")); work != "" && !slices.Contains(list, work) {
			list = append(list, work)
		}
	}
	slices.Sort(list)
	return list
}

// workOf describes the work of a command line of Go's tools, or returns "".
func workOf(args []string) string {
	switch filepath.Base(args[0]) {
	case "compile":
		if i := slices.Index(args, "-p"); i >= 0 && i+1 < len(args) {
			return "compiling " + args[i+1]
		}
	case "link":
		return "linking"
	case "vet":
		return "vetting"
	case "staticcheck":
		return "staticcheck"
	case "apt-get":
		return "installing packages"
	}
	return ""
}

// below reports whether a process is another one's child, at any depth.
func below(pid, ancestor int) bool {
	for pid > 1 {
		if pid == ancestor {
			return true
		}
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			return false
		}
		// The command's name, in parentheses, may contain spaces.
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			return false
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			return false
		}
	}
	return false
}
