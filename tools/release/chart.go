package main

import (
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
)

// chart writes the Helm chart with the version of the release, which names the image of the release.
// It is a tar file as helm package writes it, but with the time of the release.
func (r *release) chart() error {
	dir := filepath.Join(r.source, "contrib/kubernetes/weir")
	entries, err := entriesBelow(dir)
	if err != nil {
		return err
	}
	changes := map[string][][2]string{
		"Chart.yaml": {{"\nversion: 0.1.0\n", "\nversion: " + r.number() + "\nappVersion: " + r.number() + "\n"}},
		"values.yaml": {
			{"# The image that make image builds, in a registry from which the nodes can pull\n# without the mirror.\n", "# The image of this release. The nodes pull it without the mirror.\n"},
			{"\n  repository: weir\n  tag: latest\n", "\n  repository: ghcr.io/weirhq/weir\n  tag: \"" + r.number() + "\"\n"},
		},
	}
	for i, e := range entries {
		content, err := os.ReadFile(e.from)
		if err != nil {
			return err
		}
		text := string(content)
		for _, change := range changes[e.name] {
			if text, err = replace(text, change[0], change[1]); err != nil {
				return fmt.Errorf("%s: %w", e.from, err)
			}
		}
		entries[i] = entry{name: path.Join("weir", e.name), content: []byte(text), mode: 0o644}
	}
	return r.writeFile("weir-"+r.number()+".tgz", func(w io.Writer) error { return writeTarGz(w, entries, r.time) })
}
