package app

import "github.com/weirhq/weir/internal/buildinfo"

// Version returns the version of the running program, and the revision that it was built from.
func Version() (version, revision string) { return buildinfo.Version() }
