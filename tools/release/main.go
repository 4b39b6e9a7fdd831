// Command release makes the files of a release of Weir from a clone of its repository: binaries,
// packages, the image, the chart, a list of all modules, and checksums.
//
//	binaries  compiles cmd/weir for each platform, by the same Go as this program
//	stage     collects what goes into archives and packages in addition to the binary
//	archives  .tar.gz and .zip, for people
//	packages  .deb and .rpm
//	image     an OCI image layout as one file, made without any engine
//	chart     the Helm chart, with the version of the release
//	sbom      the modules in the binary, as CycloneDX
//	sums      SHA256SUMS, over all of them
//
// The version and the time are those that Go wrote into the binary: the tag of the commit, and its
// time. Nothing else enters the files, neither the clock nor the machine nor the directory, so that
// two builds of a commit are equal to the byte.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// platforms are those of a release. The mirror runs on Linux. On the others there are the commands
// for clients.
const platforms = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64"

func main() {
	source := flag.String("source", ".", "the `directory` of the repository")
	out := flag.String("out", "", "the `directory` of the release, which is made and must be empty")
	list := flag.String("platforms", platforms, "the `platforms`, with that of this machine among them")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: release [flags] [flags of go build]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := run(*source, *out, strings.Split(*list, ","), flag.Args()); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

func run(source, out string, platforms, goFlags []string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if entries, err := os.ReadDir(out); err != nil || len(entries) > 0 {
		return fmt.Errorf("%s is not an empty directory. Remove it, or name another one with -out: %v", out, err)
	}
	work, err := os.MkdirTemp("", "weir-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	r := &release{source: source, out: out, work: work}
	if err := r.compile(platforms, goFlags); err != nil {
		return err
	}
	for _, step := range []func() error{r.stage, r.archives, r.packages, r.image, r.chart, r.sbom, r.sums} {
		if err := step(); err != nil {
			return err
		}
	}
	fmt.Printf("%s is in %s\n", r.version, out)
	return nil
}
