// SPDX-License-Identifier: Apache-2.0
//
// The dashboard's type: Grafana's own (@grafana/schema), with each panel's options and field options
// typed by its plugin's schema, which Grafana's Panel leaves open. dashboard_test.py compiles
//
//   const dashboard: AttndDashboard = { ...dashboards/attnd.json... };
//
// with tsc --strict: a key that is unknown at its place or a value of a wrong type does not compile.
import type * as common from '@grafana/schema';
import type * as schema from '@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen';
import type * as barGauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeSeries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// A type as JSON writes it: an enum is one of its values.
type Json<T> = T extends string
  ? `${T}`
  : T extends number
    ? `${T}` extends `${infer Value extends number}`
      ? Value
      : never
    : T extends object
      ? { [Key in keyof T]: Json<T[Key]> }
      : T;

// Of Prometheus' data source, whose types are not in @grafana/schema: what it documents and we use.
interface PrometheusQuery extends Omit<common.DataQuery, 'datasource'> {
  datasource: schema.DataSourceRef;
  editorMode: 'code';
  expr: string;
  format: 'time_series' | 'table' | 'heatmap';
  instant: boolean;
  legendFormat: string;
  range: boolean;
}

// The transformation that the tables use.
interface Organize {
  id: 'organize';
  options: {
    excludeByName: Record<string, boolean>;
    indexByName: Record<string, number>;
    renameByName: Record<string, string>;
  };
}

// Properties of overrides that the panels use.
type Override<Custom> = {
  matcher: { id: 'byName' | 'byRegexp'; options: string };
  properties: Array<
    | { id: 'color'; value: schema.FieldColor }
    | { [Key in keyof Custom & string]-?: { id: `custom.${Key}`; value: Custom[Key] } }[keyof Custom & string]
  >;
};

// All that every panel has to have, and what depends on its plugin.
interface PanelOf<Type extends string, Options, Custom>
  extends Required<Pick<schema.Panel, 'id' | 'title' | 'description' | 'gridPos'>> {
  type: Type;
  datasource: schema.DataSourceRef;
  options: Options;
  fieldConfig: {
    defaults: Omit<schema.FieldConfig, 'custom'> & { custom?: Custom };
    overrides: Array<Override<Custom>>;
  };
  targets: [PrometheusQuery, ...PrometheusQuery[]];
  transformations?: Organize[];
}

type AnyPanel =
  | PanelOf<'timeseries', timeSeries.Options, timeSeries.FieldConfig>
  | PanelOf<'heatmap', heatmap.Options, heatmap.FieldConfig>
  | PanelOf<'stat', stat.Options, Record<string, never>>
  | PanelOf<'bargauge', barGauge.Options, Record<string, never>>
  | PanelOf<'table', table.Options, table.FieldConfig>;

interface RowOf extends Required<Pick<schema.RowPanel, 'id' | 'title' | 'gridPos' | 'collapsed'>> {
  type: 'row';
  panels: AnyPanel[];
}

// A variable's query is the data source's own; Prometheus' has these two keys.
interface QueryVariable extends Omit<schema.VariableModel, 'type' | 'query'> {
  type: 'query';
  query: { query: string; refId: string };
}
interface OtherVariable extends Omit<schema.VariableModel, 'type' | 'query'> {
  type: 'datasource' | 'custom';
  query: string;
}

interface Typed extends Omit<schema.Dashboard, 'panels' | 'templating'> {
  panels: Array<AnyPanel | RowOf>;
  templating: { list: Array<QueryVariable | OtherVariable> };
}

export type AttndDashboard = Json<Typed>;
