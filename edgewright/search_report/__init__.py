"""`search.html`: a search as one page that can be read, printed, sent and kept."""

from edgewright.search_report.collect import report_data
from edgewright.search_report.data import ReportData
from edgewright.search_report.page import page
from edgewright.search_report.write import NAME, write_report

__all__ = ["NAME", "ReportData", "page", "report_data", "write_report"]
