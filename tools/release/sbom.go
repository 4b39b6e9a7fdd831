package main

import (
	"io"
	"runtime/debug"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
)

// sbom writes the modules in the program as CycloneDX, as Go wrote them into the binary.
func (r *release) sbom() error {
	bom := cyclonedx.NewBOM()
	main := component("github.com/weirhq/weir", r.version)
	main.Type = cyclonedx.ComponentTypeApplication
	main.Licenses = &cyclonedx.Licenses{{License: &cyclonedx.License{ID: "Apache-2.0"}}}
	bom.Metadata = &cyclonedx.Metadata{Timestamp: r.time.UTC().Format(time.RFC3339), Component: &main}
	components := []cyclonedx.Component{component("std", strings.TrimPrefix(r.info.GoVersion, "go"))}
	for _, module := range r.info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		components = append(components, componentOf(module))
	}
	bom.Components = &components
	return r.writeFile("weir_"+r.number()+".cdx.json", func(w io.Writer) error {
		return cyclonedx.NewBOMEncoder(w, cyclonedx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cyclonedx.SpecVersion1_6)
	})
}

// componentOf returns a module with its checksum in go.sum, such as h1:....
func componentOf(module *debug.Module) cyclonedx.Component {
	c := component(module.Path, module.Version)
	c.Properties = &[]cyclonedx.Property{{Name: "go.sum", Value: module.Sum}}
	return c
}

func component(path, version string) cyclonedx.Component {
	url := "pkg:golang/" + path + "@" + version
	return cyclonedx.Component{BOMRef: url, Type: cyclonedx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: url}
}
