package main

import (
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers the form
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm" // registers the form
)

const (
	homepage    = "https://github.com/weirhq/weir"
	description = "A pull-through mirror for OCI container registries"
)

// packages writes a .deb and an .rpm for each Linux.
func (r *release) packages() error {
	for _, b := range r.linux() {
		for _, form := range []string{"deb", "rpm"} {
			packager, err := nfpm.Get(form)
			if err != nil {
				return err
			}
			info := nfpm.WithDefaults(r.packageInfo(b, form))
			if err := nfpm.PrepareForPackager(info, form); err != nil {
				return fmt.Errorf("%s for %s: %w", form, b.arch, err)
			}
			if err := r.writeFile(packager.ConventionalFileName(info), func(w io.Writer) error { return packager.Package(info, w) }); err != nil {
				return fmt.Errorf("%s for %s: %w", form, b.arch, err)
			}
		}
	}
	return nil
}

func (r *release) packageInfo(b binary, form string) *nfpm.Info {
	script := func(name string) string { return filepath.Join(r.source, "contrib/packages", name+".sh") }
	info := &nfpm.Info{
		Name: "weir", Arch: b.arch, Version: r.version, Release: "1",
		Section: "net", Priority: "optional", Maintainer: "The authors of Weir <weir@users.noreply.github.com>", Vendor: "Weir",
		Description: description, Homepage: homepage, License: "Apache-2.0",
		MTime: r.time, DisableGlobbing: true,
	}
	info.Contents = r.packageContents(b, form)
	info.Scripts = nfpm.Scripts{PostInstall: script("postinstall"), PreRemove: script("preremove"), PostRemove: script("postremove")}
	info.RPM.BuildHost, info.RPM.Summary = "weir", description
	// systemd-sysusers, which makes the user.
	info.Depends = []string{"systemd | systemd-standalone-sysusers"}
	if form == "rpm" {
		info.Depends = []string{"/usr/bin/systemd-sysusers"}
	}
	return info
}

// packageContents returns the files of a package.
func (r *release) packageContents(b binary, form string) files.Contents {
	var all files.Contents
	add := func(from, to, kind string, mode fs.FileMode) {
		all = append(all, &files.Content{Source: from, Destination: to, Type: kind, FileInfo: &files.ContentFileInfo{Mode: mode, MTime: r.time}})
	}
	source := func(name string) string { return filepath.Join(r.source, name) }
	work := func(name string) string { return filepath.Join(r.work, name) }
	add(b.path, "/usr/bin/weir", files.TypeFile, 0o755)
	add(work(stageUnit), "/usr/lib/systemd/system/weir.service", files.TypeFile, 0o644)
	add(source("contrib/systemd/weir.sysusers"), "/usr/lib/sysusers.d/weir.conf", files.TypeFile, 0o644)
	add(source("contrib/docker/config.toml"), "/etc/weir/config.toml", files.TypeConfigNoReplace, 0o644)
	add(source("config.example.toml"), "/usr/share/doc/weir/config.example.toml", files.TypeFile, 0o644)
	add(source("CHANGELOG.md"), "/usr/share/doc/weir/CHANGELOG.md", files.TypeFile, 0o644)
	if form == "deb" {
		add(source("LICENSE"), "/usr/share/doc/weir/copyright", files.TypeFile, 0o644)
	} else {
		add(source("LICENSE"), "/usr/share/licenses/weir/LICENSE", files.TypeRPMLicense, 0o644)
	}
	zsh := map[string]string{"deb": "vendor-completions", "rpm": "site-functions"}[form]
	add(work(stageCompletion+"/weir"), "/usr/share/bash-completion/completions/weir", files.TypeFile, 0o644)
	add(work(stageCompletion+"/_weir"), "/usr/share/zsh/"+zsh+"/_weir", files.TypeFile, 0o644)
	add(work(stageCompletion+"/weir.fish"), "/usr/share/fish/vendor_completions.d/weir.fish", files.TypeFile, 0o644)
	pages, _ := filepath.Glob(work(stageManGz) + "/*") // the only error is that of a wrong pattern
	for _, page := range pages {
		add(page, "/usr/share/man/man1/"+filepath.Base(page), files.TypeFile, 0o644)
	}
	return all
}
