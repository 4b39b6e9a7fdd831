// Package buildinfo knows the version of the program. It comes from the tag of the
// commit that was built: Go writes both into the binary, so that no build needs a flag for it.
package buildinfo

import "runtime/debug"

// Version returns the version of the running program, such as v1.2.3, and the revision that it
// was built from. A commit behind a tag has a version such as
// v1.2.4-0.20261127143408-796bc3b0c7d2, and one with changes ends in +dirty.
func Version() (version, revision string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = new(debug.BuildInfo)
	}
	return of(info)
}

// of returns the version and the revision in the build information of a program.
func of(info *debug.BuildInfo) (version, revision string) {
	version, revision = "devel", "unknown revision"
	// Without the repository's history, Go calls the version "(devel)".
	if v := info.Main.Version; v != "" && v != "(devel)" {
		version = v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			revision = setting.Value
		}
	}
	return version, revision
}
