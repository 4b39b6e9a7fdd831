// Package release holds the tests of what a release consists of: make release in two copies of the
// repository with a tag, and its files as users get them. Packages are installed by dpkg and rpm, the
// image goes through a registry to an engine, and Helm reads the chart.
package release
