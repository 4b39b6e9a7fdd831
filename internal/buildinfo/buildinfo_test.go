package buildinfo

import (
	"runtime/debug"
	"testing"
)

func TestVersionOfABuild(t *testing.T) {
	for name, tc := range map[string]struct {
		info              debug.BuildInfo
		version, revision string
	}{
		"of a tag": {debug.BuildInfo{
			Main:     debug.Module{Version: "v1.2.3"},
			Settings: []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "796bc3b"}},
		}, "v1.2.3", "796bc3b"},
		"of a module": {debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3", "unknown revision"},
		"without git": {debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "devel", "unknown revision"},
		"of a test":   {debug.BuildInfo{}, "devel", "unknown revision"},
	} {
		if version, revision := of(&tc.info); version != tc.version || revision != tc.revision {
			t.Errorf("%s: %s (%s), want %s (%s)", name, version, revision, tc.version, tc.revision)
		}
	}
}
