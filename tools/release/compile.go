package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// release is a release in the making.
type release struct {
	source, out, work string

	binaries []binary
	host     binary // that runs on this machine
	info     *buildinfo.BuildInfo
	version  string // v1.2.3
	revision string
	time     time.Time // of the commit
}

// binary is the program for one platform.
type binary struct{ system, arch, path string }

// number returns the version as packages have it, such as 1.2.3.
func (r *release) number() string { return strings.TrimPrefix(r.version, "v") }

// linux returns the binaries for Linux, on which the mirror runs.
func (r *release) linux() []binary {
	var all []binary
	for _, b := range r.binaries {
		if b.system == "linux" {
			all = append(all, b)
		}
	}
	return all
}

// compile compiles the program for each platform, and reads the version from it.
func (r *release) compile(platforms, flags []string) error {
	for _, platform := range platforms {
		system, arch, ok := strings.Cut(platform, "/")
		if !ok {
			return fmt.Errorf("%q is no platform. Give one such as linux/amd64", platform)
		}
		b := binary{system, arch, filepath.Join(r.work, system+"-"+arch, "weir")}
		if system == "windows" {
			b.path += ".exe"
		}
		fmt.Println("go build for", platform)
		// -buildvcs=true makes a missing history of the repository an error.
		build := exec.Command("go", append(append([]string{"build", "-buildvcs=true", "-o", b.path}, flags...), "./cmd/weir")...)
		build.Dir, build.Stdout, build.Stderr = r.source, os.Stdout, os.Stderr
		build.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=", "GOAMD64=v1", "GOARM64=v8.0")
		if err := build.Run(); err != nil {
			return fmt.Errorf("go build for %s: %w", platform, err)
		}
		r.binaries = append(r.binaries, b)
		if system == runtime.GOOS && arch == runtime.GOARCH {
			r.host = b
		}
	}
	if r.host.path == "" {
		return fmt.Errorf("the platforms lack %s/%s. Name it with -platforms: its binary prints the manual pages", runtime.GOOS, runtime.GOARCH)
	}
	return r.identify()
}

// identify reads the version, the revision and the time of the release from its binary.
func (r *release) identify() error {
	info, err := buildinfo.ReadFile(r.host.path)
	if err != nil {
		return err
	}
	r.info, r.version = info, info.Main.Version
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			r.revision = setting.Value
		case "vcs.time":
			if r.time, err = time.Parse(time.RFC3339, setting.Value); err != nil {
				return err
			}
		}
	}
	if !strings.HasPrefix(r.version, "v") || r.time.IsZero() {
		return fmt.Errorf("Go finds no version of %s (%q). Build in a clone of the repository, with its history", r.source, r.version)
	}
	return nil
}

// output returns what the program of this machine prints. Nothing of the environment reaches it but
// the time of the release.
func (r *release) output(args ...string) ([]byte, error) {
	cmd := exec.Command(r.host.path, args...)
	cmd.Dir, cmd.Stderr = r.work, os.Stderr
	cmd.Env = []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.time.Unix())}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("weir %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}
